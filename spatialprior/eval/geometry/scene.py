"""Scores of one clip."""

from __future__ import annotations

from dataclasses import dataclass

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.depth import score_depth
from spatialprior.eval.geometry.points import Cloud, score_points, true_cloud
from spatialprior.eval.geometry.pose import score_poses
from spatialprior.eval.geometry.samples import Samples
from spatialprior.eval.geometry.trivial import constant_scene, forward_cameras
from spatialprior.eval.geometry.truth import Geometry, Truth, prediction_of, truth_of
from spatialprior.geometry.scene import ScenePrediction

Scores = dict[str, Samples]
"""Figure -> what the clip gives to it."""


@dataclass(frozen=True)
class SceneScores:
    """What a prediction and the trivial predictors get on one clip.

    Attributes:
        clip_id, source_id: Of the clip.
        scores: Of the prediction.
        constant: Of :func:`~spatialprior.eval.geometry.trivial.constant_scene`, the same figures.
        forward: Of cameras that only advance, the pose figures alone.
    """

    clip_id: str
    source_id: str
    scores: Scores
    constant: Scores
    forward: Scores


def score_scene(
    prediction: ScenePrediction, clip: MultiViewClip, settings: GeometryEvalConfig
) -> SceneScores:
    """Score one prediction against its clip's depth and poses, beside predictors that saw nothing.

    Works in float64 on the CPU. No figure changes when all of the prediction is moved, turned and scaled by one
    similarity transform.

    Raises:
        ValueError: The clip lacks geometry, the prediction has another number of views, or it is not finite.
    """
    truth = truth_of(clip, settings.max_depth)
    cloud = true_cloud(truth, settings)
    return SceneScores(
        clip_id=clip.clip_id,
        source_id=clip.source_id,
        scores=_scores(prediction_of(prediction, truth, clip.clip_id), truth, cloud, settings),
        constant=_scores(
            prediction_of(constant_scene(clip), truth, clip.clip_id), truth, cloud, settings
        ),
        forward=score_poses(forward_cameras(clip.num_views), truth.cam_to_world),
    )


def _scores(
    predicted: Geometry, truth: Truth, cloud: Cloud | None, settings: GeometryEvalConfig
) -> Scores:
    return {
        **score_depth(predicted.depth, truth.depth, truth.valid),
        **score_poses(predicted.cam_to_world, truth.cam_to_world),
        **score_points(predicted, truth, cloud, settings),
    }
