from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spatialprior.eval.geometry.similarity import Similarity, fit_similarity, identity


def _random(seed: int) -> Similarity:
    rng = np.random.default_rng(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    return Similarity(float(np.exp(rng.normal())), turn, rng.normal(size=3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 40))
def test_recovers_any_similarity(seed: int, n: int) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 3))
    wanted = _random(seed)
    found = fit_similarity(points, wanted.apply(points))
    assert found.scale == pytest.approx(wanted.scale)
    np.testing.assert_allclose(found.rotation, wanted.rotation, atol=1e-6)
    np.testing.assert_allclose(found.translation, wanted.translation, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_noisy_fit_has_the_rotation_of_scipy_and_the_least_squares_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(50, 3))
    target = _random(seed).apply(source) + rng.normal(0, 0.5, (50, 3))
    found = fit_similarity(source, target)
    a, b = source - source.mean(0), target - target.mean(0)
    turn, _ = Rotation.align_vectors(b, a)
    np.testing.assert_allclose(found.rotation, turn.as_matrix(), atol=1e-9)
    turned = turn.apply(a).ravel()
    scale, *_ = np.linalg.lstsq(turned[:, None], b.ravel(), rcond=None)
    assert found.scale == pytest.approx(scale[0])
    np.testing.assert_allclose(found.apply(source).mean(0), target.mean(0))
    rigid = fit_similarity(source, target, with_scale=False)
    assert rigid.scale == 1
    np.testing.assert_allclose(rigid.rotation, turn.as_matrix(), atol=1e-9)


def test_a_mirror_image_gets_a_rotation() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3)) * [3, 2, 1]
    found = fit_similarity(points, points * [1, 1, -1])
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    turn, _ = Rotation.align_vectors(
        (points - points.mean(0)) * [1, 1, -1], points - points.mean(0)
    )
    np.testing.assert_allclose(found.rotation, turn.as_matrix(), atol=1e-9)


def test_a_single_place_is_moved_to_the_mean() -> None:
    target = np.random.default_rng(1).normal(size=(6, 3))
    found = fit_similarity(np.ones((6, 3)), target)
    assert found.scale == 0
    np.testing.assert_allclose(found.apply(np.ones((6, 3))), np.tile(target.mean(0), (6, 1)))


def test_composition_and_cameras() -> None:
    points = np.random.default_rng(2).normal(size=(7, 3))
    first, then = _random(3), _random(4)
    np.testing.assert_allclose(then.after(first).apply(points), then.apply(first.apply(points)))
    np.testing.assert_allclose(identity().apply(points), points)
    camera = np.eye(4)
    camera[:3, :3], camera[:3, 3] = _random(5).rotation, [1, 2, 3]
    moved = then.apply_to_cameras(camera[None])[0]
    # What stands before the camera still does, at the new scale.
    local = then.scale * points
    world = points @ camera[:3, :3].T + camera[:3, 3]
    np.testing.assert_allclose(local @ moved[:3, :3].T + moved[:3, 3], then.apply(world))


def test_unpaired_points_are_an_error() -> None:
    with pytest.raises(ValueError, match="paired points"):
        fit_similarity(np.zeros((3, 3)), np.zeros((4, 3)))
