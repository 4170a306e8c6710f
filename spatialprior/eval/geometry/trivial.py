"""Predictors that look at no image: what a figure must beat."""

from __future__ import annotations

import numpy as np
import torch

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.geometry.similarity import Array
from spatialprior.eval.geometry.truth import camera_points
from spatialprior.geometry.scene import ScenePrediction


def constant_scene(clip: MultiViewClip) -> ScenePrediction:
    """A wall at depth 1 before every camera, all cameras in one place, unturned.

    After a depth alignment its depth is the best constant (the truth's median), per image or per clip;
    its poses are identities; its points are that wall, lifted through the clip's true intrinsics, which
    no model is given.

    Raises:
        ValueError: The clip has no intrinsics.
    """
    if clip.intrinsics is None:
        raise ValueError(
            f"clip {clip.clip_id}: a constant depth cannot be lifted without intrinsics"
        )
    height, width = clip.image_size
    depth = torch.ones(clip.num_views, height, width, dtype=torch.float64)
    points = camera_points(depth, clip.intrinsics)
    return ScenePrediction(
        points_cam=tuple(points),
        cam_to_world=torch.eye(4, dtype=torch.float64).repeat(clip.num_views, 1, 1),
    )


def forward_cameras(num_views: int) -> Array:
    """Cameras that advance along their own z axis by one step a view and never turn: ``V 4 4``.

    Identical cameras have no direction of translation and so lose every RTA; these have one.
    """
    cameras = np.tile(np.eye(4), (num_views, 1, 1))
    cameras[:, 2, 3] = np.arange(num_views)
    return cameras
