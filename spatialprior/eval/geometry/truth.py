"""One clip's truth, and a prediction of it, as float64 arrays of one size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.geometry.similarity import Array
from spatialprior.geometry.cameras import invert, unproject
from spatialprior.geometry.scene import ScenePrediction


@dataclass(frozen=True)
class Geometry:
    """Points and cameras of V views.

    Attributes:
        points_cam: ``V H W 3``, each view's in its own camera's frame; z is depth.
        points_world: ``V H W 3``.
        cam_to_world: ``V 4 4``.
    """

    points_cam: Array
    points_world: Array
    cam_to_world: Array

    @property
    def depth(self) -> Array:
        """``V H W``."""
        return self.points_cam[..., 2]


@dataclass(frozen=True)
class Truth(Geometry):
    """The clip's own geometry, metres.

    Attributes:
        valid: ``V H W`` bool, pixels that are scored.
    """

    valid: NDArray[np.bool_]


def truth_of(clip: MultiViewClip, max_depth: float | None = None) -> Truth:
    """What the clip's sensors say. A pixel counts where its depth is valid and ``0 < depth < max_depth``.

    Raises:
        ValueError: The clip has no depth, intrinsics or poses.
    """
    if clip.depth is None or clip.intrinsics is None or clip.world_to_cam is None:
        raise ValueError(
            f"clip {clip.clip_id}: geometry is scored against depth, intrinsics and world_to_cam, "
            "and this clip lacks some of them"
        )
    depth = clip.depth.double()
    valid = (depth > 0) & torch.isfinite(depth)
    if clip.depth_valid is not None:
        valid &= clip.depth_valid
    if max_depth is not None:
        valid &= depth < max_depth
    # Where nothing was measured a number is still wanted, so that no NaN spreads.
    points_cam = camera_points(depth.masked_fill(~valid, 1.0), clip.intrinsics)
    return Truth(
        **_arrays(points_cam, invert(clip.world_to_cam.double())), valid=valid.cpu().numpy()
    )


def camera_points(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels lifted into their own camera's frame: ``V H W`` depth and ``V 3 3`` to ``V H W 3``, float64."""
    views, height, width = depth.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) + 0.5,
        torch.arange(width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 2).expand(views, -1, 2)
    eye = torch.eye(4, dtype=torch.float64).expand(views, 4, 4)
    lifted = unproject(
        pixels, depth.cpu().double().flatten(1), intrinsics.cpu().double().expand(views, 3, 3), eye
    )
    return lifted.reshape(views, height, width, 3)


def prediction_of(prediction: ScenePrediction, truth: Truth, name: str) -> Geometry:
    """The prediction at the truth's size: point maps resized bicubically (without antialiasing, a = -0.75, as
    OpenCV's ``INTER_CUBIC`` in the published suites), one coordinate at a time.

    Args:
        prediction: Of the same views.
        truth: Gives the size.
        name: Of the clip, for messages.

    Raises:
        ValueError: Another number of views, or numbers that are not finite.
    """
    views, height, width = truth.valid.shape
    if len(prediction.points_cam) != views:
        raise ValueError(
            f"clip {name}: {len(prediction.points_cam)} predicted views for {views} true ones"
        )
    maps = [
        _resize(points.detach().cpu().double(), height, width) for points in prediction.points_cam
    ]
    points_cam, cameras = torch.stack(maps), prediction.cam_to_world.detach().cpu().double()
    if not (torch.isfinite(points_cam).all() and torch.isfinite(cameras).all()):
        raise ValueError(f"clip {name}: the prediction holds NaN or infinite numbers")
    return Geometry(**_arrays(points_cam, cameras))


def _resize(points: Tensor, height: int, width: int) -> Tensor:
    if points.shape[:2] == (height, width):
        return points
    resized = torch.nn.functional.interpolate(
        points.permute(2, 0, 1)[None], size=(height, width), mode="bicubic", align_corners=False
    )
    return resized[0].permute(1, 2, 0)


def _arrays(points_cam: Tensor, cam_to_world: Tensor) -> dict[str, Array]:
    cameras: Array = cam_to_world.cpu().numpy()
    local: Array = points_cam.numpy()
    world = np.einsum("vij,vhwj->vhwi", cameras[:, :3, :3], local) + cameras[:, None, None, :3, 3]
    return {"points_cam": local, "points_world": world, "cam_to_world": cameras}
