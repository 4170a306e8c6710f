from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.geometry.aligned import align_scene, save_scene
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.depth import depth_metrics, score_depth
from spatialprior.eval.geometry.result import summarise
from spatialprior.eval.geometry.scene import SceneScores, score_scene
from spatialprior.eval.geometry.truth import prediction_of, truth_of
from spatialprior.geometry.scene import ScenePrediction
from spatialprior.testing.material import plane_clip

MakeClip = Callable[..., MultiViewClip]
MakeScene = Callable[..., ScenePrediction]
CONFIG = GeometryEvalConfig()


def _noisy(scene: ScenePrediction, seed: int = 0, amount: float = 0.1) -> ScenePrediction:
    rng = np.random.default_rng(seed)
    points = tuple(
        p * torch.tensor(np.exp(rng.normal(0, amount, p.shape[:2]))).unsqueeze(-1)
        for p in scene.points_cam
    )
    cameras = scene.cam_to_world.clone()
    turns = Rotation.from_rotvec(rng.normal(0, amount, (len(points), 3))).as_matrix()
    cameras[:, :3, :3] = cameras[:, :3, :3] @ torch.tensor(turns)
    cameras[:, :3, 3] += torch.tensor(rng.normal(0, amount, (len(points), 3)))
    return ScenePrediction(points, cameras)


def _means(scores: SceneScores) -> dict[str, float | None]:
    return {name: samples.mean for name, samples in scores.scores.items()}


# --- truth and prediction -----------------------------------------------------------------


def test_a_plane_seen_from_several_cameras_is_one_plane() -> None:
    truth = truth_of(plane_clip())
    normal = np.array([0.4, -0.2, 1.0])
    distance = truth.points_world @ (normal / np.linalg.norm(normal))
    np.testing.assert_allclose(distance, 3.0, atol=1e-5)


def test_only_valid_depth_below_the_limit_counts() -> None:
    clip = plane_clip(size=(4, 4), num_views=1)
    depth = clip.depth.clone()
    depth[0, 0] = torch.tensor([0.0, -1.0, math.nan, math.inf])
    depth[0, 1] = torch.tensor([5.0, 4.999, 70.0, 0.1])
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[0, 1, 3] = False
    clip = dataclasses.replace(clip, depth=depth, depth_valid=valid)
    assert truth_of(clip, 5.0).valid[0, :2].tolist() == [[False] * 4, [False, True, False, False]]
    assert truth_of(clip).valid[0, 1].tolist() == [True, True, True, False]
    assert np.isfinite(truth_of(clip).points_world).all()


def _keys(x: float) -> float:
    """The bicubic kernel with a = -0.75, which OpenCV and PyTorch share."""
    a, x = -0.75, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_smaller_predictions_are_resized_bicubically(make_clip: MakeClip) -> None:
    clip = make_clip(views=1, size=(12, 20))
    small = np.random.default_rng(0).normal(size=(6, 8, 3))
    scene = ScenePrediction((torch.tensor(small),), torch.eye(4)[None])
    found = prediction_of(scene, truth_of(clip), "c").points_cam[0]
    assert found.shape == (12, 20, 3)
    for row, column in ((5, 9), (6, 10), (0, 0), (11, 19)):
        y, x = (row + 0.5) * 6 / 12 - 0.5, (column + 0.5) * 8 / 20 - 0.5
        expected = np.zeros(3)
        for i in range(math.floor(y) - 1, math.floor(y) + 3):
            for j in range(math.floor(x) - 1, math.floor(x) + 3):
                pixel = small[min(max(i, 0), 5), min(max(j, 0), 7)]  # edges repeat
                expected += _keys(y - i) * _keys(x - j) * pixel
        np.testing.assert_allclose(found[row, column], expected, atol=1e-12)


def test_errors_name_the_clip(make_clip: MakeClip, perfect: MakeScene) -> None:
    clip = make_clip()
    scene = perfect(clip)
    with pytest.raises(ValueError, match=r"clip0: 3 predicted views for 4"):
        score_scene(ScenePrediction(scene.points_cam[:3], scene.cam_to_world[:3]), clip, CONFIG)
    broken = scene.cam_to_world.clone()
    broken[0, 0, 3] = math.nan
    with pytest.raises(ValueError, match="clip0: the prediction holds NaN"):
        score_scene(ScenePrediction(scene.points_cam, broken), clip, CONFIG)
    with pytest.raises(ValueError, match="clip0: geometry is scored against depth"):
        score_scene(scene, dataclasses.replace(clip, depth=None), CONFIG)
    with pytest.raises(ValueError, match="max_points=2: must be at least 3"):
        GeometryEvalConfig(max_points=2)
    with pytest.raises(ValueError, match="split='tets': choose one of train, val, test"):
        GeometryEvalConfig(split="tets")


# --- depth --------------------------------------------------------------------------------


def test_depth_metrics_by_hand() -> None:
    truth = np.array([1.0, 2, 4, 1, 1])
    found = np.array([1.0, 2.6, 4 / 1.25**2.5, -1, 1.25**3])
    scores = depth_metrics(found, truth)
    errors = [0, 0.3, 1 - 1.25**-2.5, 2, 1.25**3 - 1]
    assert scores["abs_rel"] == pytest.approx(np.mean(errors))
    # 2.6 is 1.3 times the truth; a negative depth and the limit itself never count.
    assert [scores[f"delta{n}"] for n in (1, 2, 3)] == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    metres = [0, 0.6, 4 - 4 / 1.25**2.5, 2, 1.25**3 - 1]
    assert scores["rmse"] == pytest.approx(math.sqrt(np.mean(np.square(metres))))


def test_median_is_fitted_per_image_and_the_others_per_clip() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 3, (3, 6, 6))
    found = truth * np.array([1.0, 2.0, 1.0])[:, None, None]  # one image at another scale
    valid = np.ones((3, 6, 6), dtype=bool)
    valid[1, 3:] = False
    valid[2] = False
    scores = score_depth(found, truth, valid)
    median, scale = scores["depth.median.abs_rel"], scores["depth.scale.abs_rel"]
    np.testing.assert_allclose(median.values, [0, 0], atol=1e-12)
    assert median.weights.tolist() == [36, 18]
    # Two thirds of the pixels have scale 1, so that the rest is wrong by a factor of two.
    assert scale.values == pytest.approx([1 / 3]) and scale.weights.tolist() == [54]
    assert scores["depth.scale_shift.delta1"].mean < 1


def test_a_shift_is_undone_by_scale_and_shift_alone(
    make_clip: MakeClip, perfect: MakeScene
) -> None:
    clip = make_clip()
    scene = perfect(clip)
    shifted = tuple(p + torch.tensor([0, 0, 1.5]) for p in scene.points_cam)
    means = _means(score_scene(ScenePrediction(shifted, scene.cam_to_world), clip, CONFIG))
    assert means["depth.scale_shift.abs_rel"] == pytest.approx(0, abs=1e-7)
    assert means["depth.scale.abs_rel"] > 0.05 < means["depth.median.abs_rel"]


# --- everything ---------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.02, 50))
def test_a_perfect_prediction_is_perfect_under_any_similarity(
    make_clip: MakeClip, perfect: MakeScene, seed: int, scale: float
) -> None:
    clip = make_clip(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    means = _means(score_scene(perfect(clip, scale, turn, np.array([5.0, -3, 2])), clip, CONFIG))
    for name, value in means.items():
        perfect_value = 1 if name.rsplit(".")[-1][:3] in ("del", "rra", "rta", "auc", "nc") else 0
        # Normals of a fitted neighbourhood may turn with rounding where two directions fit alike.
        tolerance = 1e-3 if name == "points.nc" else 1e-6
        assert value == pytest.approx(perfect_value, abs=tolerance), name


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.02, 50))
def test_a_poor_prediction_scores_the_same_under_any_similarity(
    make_clip: MakeClip, perfect: MakeScene, seed: int, scale: float
) -> None:
    clip = make_clip(seed)
    scene = _noisy(perfect(clip), seed)
    moved = scene.cam_to_world.clone()
    moved[:, :3] = torch.tensor(Rotation.random(random_state=seed).as_matrix()) @ moved[:, :3]
    moved[:, :3, 3] = scale * moved[:, :3, 3] + 1
    other = ScenePrediction(tuple(scale * p for p in scene.points_cam), moved)
    before, after = (_means(score_scene(s, clip, CONFIG)) for s in (scene, other))
    assert after == pytest.approx(before, rel=1e-5, abs=1e-7)
    assert before["points.acc_mean"] > 0.01 < before["depth.scale.abs_rel"]


def test_more_noise_is_worse_in_every_figure(make_clip: MakeClip, perfect: MakeScene) -> None:
    clips = [make_clip(seed, views=6) for seed in range(4)]
    reports = []
    for amount in (0.02, 0.6):
        scenes = [
            score_scene(_noisy(perfect(c), i, amount), c, CONFIG) for i, c in enumerate(clips)
        ]
        reports.append(summarise(scenes, CONFIG)["figures"])
    little, much = reports
    for name, figure in little.items():
        sign = 1 if figure["higher_is_better"] else -1
        assert sign * figure["value"] > sign * much[name]["value"], name


# --- trivial predictors -------------------------------------------------------------------


def test_the_constant_is_the_truths_median_under_every_alignment(
    make_clip: MakeClip, perfect: MakeScene
) -> None:
    clip = make_clip(3)
    scores = score_scene(perfect(clip), clip, CONFIG)
    truth = truth_of(clip)
    values = truth.depth[truth.valid]
    middle = np.median(values)
    whole = np.mean(np.abs(values - middle) / values)
    for alignment in ("scale", "scale_shift"):
        # An even number of values has many medians; they lie a hair apart here.
        assert scores.constant[f"depth.{alignment}.abs_rel"].mean == pytest.approx(whole, rel=5e-3)
    each = [truth.depth[v][truth.valid[v]] for v in range(4)]
    errors = [np.abs(d - np.median(d)) / d for d in each]
    assert scores.constant["depth.median.abs_rel"].mean == pytest.approx(
        np.concatenate(errors).mean()
    )
    assert scores.constant["pose.vggt.rta30"].mean == 0


def test_forward_cameras_win_on_a_drive_straight_ahead(
    make_clip: MakeClip, perfect: MakeScene
) -> None:
    cameras = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    cameras[:, 2, 3] = -torch.tensor([0.0, 1.0, 1.5, 4.0])  # world_to_cam of a camera that advances
    clip = dataclasses.replace(make_clip(), world_to_cam=cameras)
    scores = score_scene(perfect(clip), clip, CONFIG)
    assert scores.forward["pose.vggt.auc30"].mean == 1 == scores.forward["pose.pi3.auc30"].mean
    assert scores.constant["pose.vggt.auc30"].mean == 0


# --- the result ---------------------------------------------------------------------------


def test_the_summary_pools_weighted_samples(make_clip: MakeClip, perfect: MakeScene) -> None:
    big = make_clip(0, views=3, size=(16, 20), source="a")
    small = make_clip(1, views=2, size=(8, 10), source="b")
    scenes = [score_scene(_noisy(perfect(c), i), c, CONFIG) for i, c in enumerate((big, small))]
    report = summarise(scenes, CONFIG)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    figures = report["figures"]
    weights = [truth_of(c).valid.sum() for c in (big, small)]
    expected = np.average([s.scores["depth.scale.rmse"].mean for s in scenes], weights=weights)
    assert figures["depth.scale.rmse"]["value"] == pytest.approx(expected)
    pairs = [s.scores["pose.pi3.auc30"] for s in scenes]
    assert figures["pose.pi3.auc30"]["value"] == pytest.approx(
        (pairs[0].values.sum() + pairs[1].values.sum()) / 4
    )
    assert {name: figures[name]["n"] for name in ("depth.median.rmse", "points.nc")} == {
        "depth.median.rmse": 5,
        "points.nc": 2,
    }
    assert figures["pose.vggt.rra5"]["n"] == 4
    assert figures["pose.ate"]["n"] == 1  # two views have none
    assert figures["pose.ate"]["ci95"] is None and figures["points.nc"]["ci95"] is not None
    assert figures["points.nc"]["higher_is_better"] and not figures["pose.ate"]["higher_is_better"]
    assert "baseline_forward" in figures["pose.ate"]
    assert "baseline_forward" not in figures["points.nc"]
    assert report["settings"]["sources"] == 2 and report["settings"]["icp_threshold"] == 0.1
    assert [c["source_id"] for c in report["clips"]] == ["a", "b"]


def test_clips_without_valid_depth_leave_depth_and_points_out(
    make_clip: MakeClip, perfect: MakeScene
) -> None:
    clip = make_clip()
    blank = dataclasses.replace(clip, depth_valid=torch.zeros_like(clip.depth_valid))
    report = summarise([score_scene(perfect(clip), blank, CONFIG)], CONFIG)
    json.dumps(report, allow_nan=False)
    for name, figure in report["figures"].items():
        assert (figure["value"] is None) == (not name.startswith("pose")), name
    with pytest.raises(ValueError, match="no clip was scored"):
        summarise([], CONFIG)


# --- pictures -----------------------------------------------------------------------------


def test_an_aligned_scene_is_in_the_metric_world(
    make_clip: MakeClip, perfect: MakeScene, tmp_path: Path
) -> None:
    clip = make_clip(5)
    turn = Rotation.random(random_state=5).as_matrix()
    scene = align_scene(perfect(clip, 7.0, turn, np.array([1.0, 2, 3])), clip, CONFIG)
    save_scene(tmp_path / "pictures" / "geometry_a.npz", scene)
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["geometry_a.npz"]
    with np.load(tmp_path / "pictures" / "geometry_a.npz", allow_pickle=False) as saved:
        arrays = dict(saved)
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes == {
        "images": (4, 3, 18, 24),
        "true_depth": (4, 18, 24),
        "valid": (4, 18, 24),
        "pred_depth": (4, 18, 24),
        "pred_points": (4, 18, 24, 3),
        "true_points": (4, 18, 24, 3),
        "pred_cam_to_world": (4, 4, 4),
        "true_cam_to_world": (4, 4, 4),
        "intrinsics": (4, 3, 3),
    }
    valid = arrays["valid"]
    np.testing.assert_allclose(arrays["pred_depth"][valid], arrays["true_depth"][valid], atol=1e-5)
    np.testing.assert_allclose(
        arrays["pred_points"][valid], arrays["true_points"][valid], atol=1e-5
    )
    np.testing.assert_allclose(arrays["pred_cam_to_world"], arrays["true_cam_to_world"], atol=1e-5)
    truth = np.linalg.inv(clip.world_to_cam.numpy())
    np.testing.assert_allclose(arrays["true_cam_to_world"], truth, atol=1e-5)
