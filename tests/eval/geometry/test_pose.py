from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from spatialprior.eval.geometry.pose import (
    auc_credit,
    relative_poses,
    rotation_error,
    score_poses,
    trajectory_error,
    translation_error,
)


def _cameras(seed: int, n: int = 5, angle: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (n, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, angle, (n, 3))).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(n, 3))
    return poses


def _pose(rotvec: list[float], centre: list[float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec(rotvec).as_matrix(), centre
    return pose


def test_relative_poses_are_the_published_products_of_world_to_camera() -> None:
    poses = _cameras(0)
    world_to_cam = np.linalg.inv(poses)
    pairs = list(combinations(range(5), 2))
    vggt = [world_to_cam[i] @ np.linalg.inv(world_to_cam[j]) for i, j in pairs]
    pi3 = [world_to_cam[j] @ np.linalg.inv(world_to_cam[i]) for i, j in pairs]
    np.testing.assert_allclose(relative_poses(poses, "vggt"), vggt, atol=1e-12)
    np.testing.assert_allclose(relative_poses(poses, "pi3"), pi3, atol=1e-12)


def test_rotation_error_is_scipys_magnitude() -> None:
    a, b = Rotation.random(200, random_state=1), Rotation.random(200, random_state=2)
    expected = np.degrees((a.inv() * b).magnitude())
    np.testing.assert_allclose(rotation_error(a.as_matrix(), b.as_matrix()), expected, atol=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 5.0, 90.0, 179.9999, 180.0])
def test_rotation_error_is_exact_near_both_ends(degrees: float) -> None:
    turn = Rotation.from_rotvec([0, math.radians(degrees), 0]).as_matrix()
    assert rotation_error(turn, np.eye(3)) == pytest.approx(degrees, abs=1e-9)


def test_translation_error_by_hand() -> None:
    truth = np.tile([0.0, 0, 2], (5, 1))
    found = np.array([[0, 0, 7.0], [0, 0, -1], [1, 0, 1], [3, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(translation_error(found, truth), [0, 0, 45, 90, 90], atol=1e-5)
    # No direction on the true side either: 90, as the published code has it, even for two zeros.
    assert translation_error(np.zeros(3), np.zeros(3)) == 90
    assert translation_error(np.array([1.0, 0, 0]), np.zeros(3)) == 90


def test_two_cameras_by_hand_tell_the_conventions_apart() -> None:
    """A camera 1 m to the right, turned by 20 degrees more than is true: the direction seen from camera 0 is
    right (vggt), the one seen from camera 1 is 20 degrees off (pi3)."""
    truth = np.stack([np.eye(4), _pose([0, 0, 0], [1, 0, 0])])
    found = np.stack([np.eye(4), _pose([0, math.radians(20), 0], [3, 0, 0])])
    scores = {name: samples.mean for name, samples in score_poses(found, truth).items()}
    for name in ("vggt", "pi3"):
        assert [scores[f"pose.{name}.rra{t}"] for t in (5, 15, 30)] == [0, 0, 1]
    assert [scores[f"pose.vggt.rta{t}"] for t in (5, 15, 30)] == [1, 1, 1]
    assert [scores[f"pose.pi3.rta{t}"] for t in (5, 15, 30)] == [0, 0, 1]
    # The error of 20 degrees falls short of or into bin 20, by rounding.
    assert scores["pose.vggt.auc30"] in (pytest.approx(10 / 30), pytest.approx(11 / 30))


def _published_auc(error: np.ndarray, limit: int = 30) -> float:
    histogram, _ = np.histogram(error, bins=np.arange(limit + 1))
    return float(np.cumsum(histogram / len(error)).mean())


def test_auc_of_hand_made_errors() -> None:
    error = np.array([0.0, 0.5, 14.99, 15.0, 29.5, 30.0, 30.001, 90.0])
    by_hand = np.array([30, 30, 16, 15, 1, 1, 0, 0]) / 30
    np.testing.assert_allclose(auc_credit(error), by_hand, atol=1e-15)
    assert _published_auc(error) == pytest.approx(by_hand.mean())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 180), min_size=1, max_size=40))
def test_auc_is_the_mean_of_the_credits(errors: list[float]) -> None:
    error = np.array(errors)
    assert auc_credit(error).mean() == pytest.approx(_published_auc(error), abs=1e-12)


def test_identical_cameras_have_the_rotation_of_the_truth_and_no_direction() -> None:
    truth = _cameras(3, angle=0.1)
    constant = np.tile(_cameras(9)[:1], (5, 1, 1))
    scores = score_poses(constant, truth)
    turns = Rotation.from_matrix(truth[:, :3, :3])
    angles = [
        np.degrees((turns[i].inv() * turns[j]).magnitude()) for i, j in combinations(range(5), 2)
    ]
    assert 0 < np.mean(np.array(angles) < 15) < 1
    for name in ("vggt", "pi3"):
        assert scores[f"pose.{name}.rra15"].mean == np.mean(np.array(angles) < 15)
        assert scores[f"pose.{name}.rta30"].mean == 0 == scores[f"pose.{name}.auc30"].mean
    centres = truth[:, :3, 3]
    spread = np.sqrt(np.square(centres - centres.mean(0)).sum(1).mean())
    assert scores["pose.ate"].mean == pytest.approx(spread)


def test_trajectory_error_is_the_least_over_all_similarities() -> None:
    truth, found = _cameras(4, n=6), _cameras(5, n=6)

    def cost(x: np.ndarray) -> float:
        moved = np.exp(x[0]) * Rotation.from_rotvec(x[1:4]).apply(found[:, :3, 3]) + x[4:]
        return float(np.square(moved - truth[:, :3, 3]).sum(1).mean())

    starts = [np.r_[-1.0, v, np.zeros(3)] for v in Rotation.random(8, random_state=0).as_rotvec()]
    least = min(minimize(cost, start, tol=1e-12).fun for start in starts)
    assert trajectory_error(found, truth) == pytest.approx(math.sqrt(least), rel=1e-5)
    assert trajectory_error(found[:2], truth[:2]) is None


def test_one_view_has_no_pair() -> None:
    scores = score_poses(_cameras(0, n=1), _cameras(1, n=1))
    assert all(samples.mean is None for samples in scores.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_poses_score_the_same_in_any_world_and_unit(seed: int, scale: float) -> None:
    truth, found = _cameras(seed), _cameras(seed + 1, angle=0.3)
    moved = _cameras(seed + 2, n=1)[0] @ found
    moved[:, :3, 3] = scale * moved[:, :3, 3] + 1
    before, after = score_poses(found, truth), score_poses(moved, truth)
    for name, samples in before.items():
        if name.endswith(("rra5", "rta5", "rra15", "rta15", "rra30", "rta30", "auc30")):
            np.testing.assert_allclose(after[name].values, samples.values, err_msg=name)
    assert after["pose.ate"].mean == pytest.approx(before["pose.ate"].mean)
