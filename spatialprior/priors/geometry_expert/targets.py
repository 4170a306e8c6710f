"""The true geometry of a clip, at the pixels of its predicted point maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spatialprior.core.clip import MultiViewClip
from spatialprior.features.maps import Box
from spatialprior.geometry.cameras import invert, unproject


@dataclass(frozen=True)
class SceneTruth:
    """Of one clip of V views.

    Attributes:
        points_cam: ``H W 3`` a view, metres, each in its camera's frame.
        valid: ``H W`` bool a view.
        cam_to_world: ``V 4 4``, metres.
    """

    points_cam: list[Tensor]
    valid: list[Tensor]
    cam_to_world: Tensor


def scene_truth(
    clip: MultiViewClip, sizes: list[tuple[int, int]], boxes: list[Box], device: torch.device
) -> SceneTruth:
    """Depth lifted to points at the centres of the predicted pixels.

    Each predicted pixel takes the nearest measured depth, as values between two surfaces lie on neither.

    Args:
        clip: With geometry.
        sizes: ``(H, W)`` of each view's prediction.
        boxes: Pixels of the view under it.
        device: Where the truth goes.
    """
    assert clip.depth is not None and clip.intrinsics is not None and clip.world_to_cam is not None
    points, masks = [], []
    for view, (size, box) in enumerate(zip(sizes, boxes, strict=True)):
        centers = pixel_centers(size, box)
        height, width = clip.depth.shape[-2:]
        col = centers[..., 0].long().clamp(0, width - 1)
        row = centers[..., 1].long().clamp(0, height - 1)
        depth = clip.depth[view, row, col].double()
        valid = depth > 0
        if clip.depth_valid is not None:
            valid &= clip.depth_valid[view, row, col]
        lifted = unproject(
            centers.flatten(0, 1),
            depth.where(valid, torch.ones_like(depth)).flatten(),
            clip.intrinsics[view].double(),
            torch.eye(4, dtype=torch.float64),
        )
        points.append(lifted.view(*size, 3).float().to(device))
        masks.append(valid.to(device))
    return SceneTruth(points, masks, invert(clip.world_to_cam.double()).float().to(device))


def pixel_centers(size: tuple[int, int], box: Box) -> Tensor:
    """``H W 2`` float64: centres of ``H W`` pixels over ``box``, ``(x, y)`` in the view's own pixels."""
    x0, y0, x1, y1 = box
    y = y0 + (torch.arange(size[0], dtype=torch.float64) + 0.5) * ((y1 - y0) / size[0])
    x = x0 + (torch.arange(size[1], dtype=torch.float64) + 0.5) * ((x1 - x0) / size[1])
    rows, cols = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([cols, rows], dim=-1)
