"""A prediction and its truth in one frame, for pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.geometry.alignment import l1_scale
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.points import align_points
from spatialprior.eval.geometry.truth import prediction_of, truth_of
from spatialprior.geometry.scene import ScenePrediction


@dataclass(frozen=True)
class AlignedScene:
    """V views; points and cameras in the clip's own world frame, metres, OpenCV axes.

    Attributes:
        images: ``V 3 H W`` uint8.
        true_depth: ``V H W`` float32, metres; 1 where not valid.
        valid: ``V H W`` bool.
        pred_depth: ``V H W`` float32, metres, by one L1 scale for the clip (the ``depth.scale`` figures').
        pred_points, true_points: ``V H W 3`` float32; the prediction's by the similarity of the point figures
            (its scale is another than the depth's, since it is fitted to the points).
        pred_cam_to_world, true_cam_to_world: ``V 4 4`` float32; the prediction's by the same similarity.
        intrinsics: ``V 3 3`` float32, pixels.
    """

    images: NDArray[np.uint8]
    true_depth: NDArray[np.float32]
    valid: NDArray[np.bool_]
    pred_depth: NDArray[np.float32]
    pred_points: NDArray[np.float32]
    true_points: NDArray[np.float32]
    pred_cam_to_world: NDArray[np.float32]
    true_cam_to_world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]


def align_scene(
    prediction: ScenePrediction, clip: MultiViewClip, settings: GeometryEvalConfig
) -> AlignedScene:
    """Bring a prediction into the metric world of its clip.

    Raises:
        ValueError: As :func:`~spatialprior.eval.geometry.scene.score_scene`, or fewer than three valid pixels.
    """
    truth = truth_of(clip, settings.max_depth)
    predicted = prediction_of(prediction, truth, clip.clip_id)
    fit = align_points(predicted, truth, settings)
    if fit is None or clip.intrinsics is None:
        raise ValueError(f"clip {clip.clip_id}: too few valid pixels to align a prediction to")
    scale = l1_scale(predicted.depth[truth.valid], truth.depth[truth.valid])
    views = [np.asarray(view.cpu().numpy(), dtype=np.uint8) for view in clip.images]
    single = np.float32
    return AlignedScene(
        images=np.stack(views),
        true_depth=truth.depth.astype(single),
        valid=truth.valid,
        pred_depth=(scale * predicted.depth).astype(single),
        pred_points=fit.apply(predicted.points_world).astype(single),
        true_points=truth.points_world.astype(single),
        pred_cam_to_world=fit.apply_to_cameras(predicted.cam_to_world).astype(single),
        true_cam_to_world=truth.cam_to_world.astype(single),
        intrinsics=clip.intrinsics.expand(len(views), 3, 3).cpu().numpy().astype(single),
    )


def save_scene(path: Path, scene: AlignedScene) -> None:
    """Write ``path`` (``.npz``) atomically, one array a field; no pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **{field.name: getattr(scene, field.name) for field in fields(scene)})
    os.replace(part, path)
