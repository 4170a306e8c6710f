from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.icp import register
from spatialprior.eval.geometry.normals import estimate_normals
from spatialprior.eval.geometry.points import Cloud, compare_clouds, pick_pixels


def _grid(n: int = 12, step: float = 0.1) -> np.ndarray:
    x, y = np.meshgrid(np.arange(n) * step, np.arange(n) * step)
    return np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1)


def _surface(seed: int, n: int = 600) -> np.ndarray:
    """A curved sheet whose pose is unambiguous."""
    xy = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    return np.column_stack([xy, 0.3 * np.sin(3 * xy[:, 0]) + 0.2 * xy[:, 1] ** 2 + 0.1 * xy[:, 0]])


def test_distances_and_normals_against_brute_force() -> None:
    a, b = Cloud.of(_surface(0, 80), 8), Cloud.of(_surface(1, 120), 8)
    found = compare_clouds(a, b)
    table = cdist(a.points, b.points)
    assert found["acc_mean"] == pytest.approx(table.min(1).mean())
    assert found["acc_median"] == pytest.approx(np.median(table.min(1)))
    assert found["comp_mean"] == pytest.approx(table.min(0).mean())
    assert found["comp_median"] == pytest.approx(np.median(table.min(0)))
    one = [abs(a.normals[i] @ b.normals[table[i].argmin()]) for i in range(80)]
    two = [abs(b.normals[j] @ a.normals[table[:, j].argmin()]) for j in range(120)]
    assert found["nc"] == pytest.approx((np.mean(one) + np.mean(two)) / 2)
    assert np.mean(one) != pytest.approx(np.mean(two), abs=1e-6)  # so that the mean of both matters


def test_two_parallel_planes_by_hand() -> None:
    above = _grid() + np.array([0, 0, 0.25])
    found = compare_clouds(Cloud.of(above, 9), Cloud.of(_grid(), 9))
    assert found == pytest.approx(
        {"acc_mean": 0.25, "acc_median": 0.25, "comp_mean": 0.25, "comp_median": 0.25, "nc": 1.0}
    )


def test_half_a_plane_is_accurate_and_incomplete() -> None:
    whole, half = _grid(), _grid()[_grid()[:, 0] < 0.55]
    found = compare_clouds(Cloud.of(half, 9), Cloud.of(whole, 9))
    assert found["acc_mean"] == 0
    assert found["comp_mean"] == pytest.approx(0.1 * (1 + 2 + 3 + 4 + 5 + 6) / 12)


def test_planes_at_right_angles_have_no_consistent_normal() -> None:
    upright = _grid()[:, [0, 2, 1]] + np.array([0, 0.55, -0.55])
    assert compare_clouds(Cloud.of(upright, 9), Cloud.of(_grid(), 9))["nc"] == pytest.approx(
        0, abs=1e-9
    )


def test_normals_of_a_sphere_are_radial_and_turn_with_it() -> None:
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(3000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    normals = estimate_normals(sphere, cKDTree(sphere), 30)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert np.abs((normals * sphere).sum(1)).min() > 0.98
    turn = Rotation.random(random_state=1)
    turned = turn.apply(5 * sphere)
    again = estimate_normals(turned, cKDTree(turned), 30)
    np.testing.assert_allclose(np.abs((again * turn.apply(normals)).sum(1)), 1, atol=1e-6)


def test_normals_of_a_handful_of_points() -> None:
    few = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(np.abs(estimate_normals(few, cKDTree(few), 30)), [[0, 0, 1]] * 3)


def test_icp_undoes_a_small_motion() -> None:
    points = _surface(2, 2000)
    turn = Rotation.from_rotvec([0.01, -0.015, 0.02])
    moved = turn.apply(points) + np.array([0.01, 0.02, -0.01])
    fit = register(moved, points, threshold=0.1, iterations=100)
    assert fit.scale == 1
    before = np.linalg.norm(moved - points, axis=1).mean()
    assert np.linalg.norm(fit.apply(moved) - points, axis=1).mean() < 0.1 * before


def test_icp_ignores_what_lies_beyond_the_threshold() -> None:
    points = _surface(3)
    stray = np.vstack([points + np.array([0.01, 0, 0]), points[:200] + np.array([0, 0, 3.0])])
    fit = register(stray, points, threshold=0.1)
    np.testing.assert_allclose(fit.translation, [-0.01, 0, 0], atol=4e-3)
    far = register(points + np.array([0, 0, 50.0]), points, threshold=0.1)
    np.testing.assert_array_equal(far.apply(points), points)


def test_icp_stays_where_it_is_right() -> None:
    points = _surface(4)
    fit = register(points, points)
    np.testing.assert_allclose(fit.apply(points), points, atol=1e-12)


def test_pixels_are_valid_distinct_and_the_same_every_time() -> None:
    valid = np.random.default_rng(0).random((2, 30, 40)) > 0.5
    config = GeometryEvalConfig(max_points=100)
    picked = pick_pixels(valid, config)
    assert len(set(picked.tolist())) == 100 and valid.ravel()[picked].all()
    np.testing.assert_array_equal(picked, pick_pixels(valid, config))
    everything = pick_pixels(valid, GeometryEvalConfig(max_points=10**6))
    assert len(everything) == valid.sum()
