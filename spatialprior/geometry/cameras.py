"""Pinhole cameras: project, unproject, and rigid transforms, batched over any leading dimensions.

OpenCV axes (x right, y down, z forward), metres, pixel centres at +0.5. Every function keeps the dtype
and the device of its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_DEPTH = 1e-6  # metres; keeps the division finite for points in the camera's own plane


def project(
    points_world: Tensor, intrinsics: Tensor, world_to_cam: Tensor
) -> tuple[Tensor, Tensor]:
    """Project world points into a camera.

    Args:
        points_world: ``... N 3``, metres.
        intrinsics: ``... 3 3``, pixels.
        world_to_cam: ``... 4 4``.

    Returns:
        ``... N 2`` pixels ``(x, y)``, finite everywhere but meaningful only where the depth is positive,
        and ``... N`` depth along the camera's z axis.
    """
    points_cam = transform(points_world, world_to_cam)
    depth = points_cam[..., 2]
    safe = torch.where(
        depth.abs() < _SMALLEST_DEPTH, torch.full_like(depth, _SMALLEST_DEPTH), depth
    )
    pixels = points_cam @ intrinsics.transpose(-1, -2)
    return pixels[..., :2] / safe.unsqueeze(-1), depth


def unproject(pixels: Tensor, depth: Tensor, intrinsics: Tensor, world_to_cam: Tensor) -> Tensor:
    """Lift pixels to the world: the inverse of :func:`project`.

    Args:
        pixels: ``... N 2``, ``(x, y)``.
        depth: ``... N``, metres along the camera's z axis.
        intrinsics: ``... 3 3``, pixels, upper triangular.
        world_to_cam: ``... 4 4``.

    Returns:
        ``... N 3`` world points.
    """
    fx, skew, cx = (intrinsics[..., 0, i, None] for i in range(3))
    fy, cy = intrinsics[..., 1, 1, None], intrinsics[..., 1, 2, None]
    y = (pixels[..., 1] - cy) / fy
    x = (pixels[..., 0] - cx - skew * y) / fx
    points_cam = torch.stack([x * depth, y * depth, torch.ones_like(x) * depth], dim=-1)
    return transform(points_cam, invert(world_to_cam))


def transform(points: Tensor, rigid: Tensor) -> Tensor:
    """Apply a rigid transform (``... 4 4``) to points (``... N 3``)."""
    return points @ rigid[..., :3, :3].transpose(-1, -2) + rigid[..., None, :3, 3]


def invert(rigid: Tensor) -> Tensor:
    """Inverse of a rigid transform ``... 4 4``, by transposing its rotation (no general matrix inverse)."""
    rotation_t = rigid[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(rigid)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -(rotation_t @ rigid[..., :3, 3, None])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def compose(b_to_c: Tensor, a_to_b: Tensor) -> Tensor:
    """``a_to_c``: first ``a_to_b``, then ``b_to_c`` (both ``... 4 4``)."""
    return b_to_c @ a_to_b


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation (determinant +1) nearest to ``... 3 3`` in the Frobenius norm (orthogonal Procrustes).

    Mends poses that were stored with few digits or averaged. How far the input was from a rotation is the
    caller's question: a mirror or a zero matrix also gets *some* rotation.
    """
    u, _, vh = torch.linalg.svd(matrix)
    flip = torch.ones_like(matrix[..., 0])
    flip[..., 2] = torch.linalg.det(u @ vh).sign()
    rotation: Tensor = (u * flip.unsqueeze(-2)) @ vh
    return rotation
