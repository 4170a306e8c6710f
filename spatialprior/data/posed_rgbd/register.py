"""Depth registered into the colour camera, for sensors that deliver the two from different lenses."""

from __future__ import annotations

import torch
from torch import Tensor

from spatialprior.geometry.cameras import project, unproject

_WIDEST_SPLAT = 1.5  # pixels; half-width beyond which a stretched surface is left with holes


def register_depth(
    depth: Tensor,
    depth_valid: Tensor,
    depth_intrinsics: Tensor,
    color_intrinsics: Tensor,
    depth_to_color: Tensor,
    color_size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Z-buffer depth maps into the colour camera.

    Each depth pixel covers its footprint in the colour image: half the distance to where its neighbours land,
    so that slanted and magnified surfaces close up and what lies behind does not shine through the gaps. The
    nearest surface wins.

    Args:
        depth: ``V H W``, metres.
        depth_valid: ``V H W`` bool.
        depth_intrinsics, color_intrinsics: ``3 3``.
        depth_to_color: ``4 4``, from the depth camera's frame to the colour camera's.
        color_size: ``(height, width)`` of the colour image.

    Returns:
        ``V h w`` depth along the colour camera's z (1 where unknown) and ``V h w`` bool.
    """
    views, height, width = depth.shape
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([cols, rows], dim=-1).to(depth) + 0.5
    safe = torch.where(depth_valid, depth, 1).reshape(views, -1)
    identity = torch.eye(4, dtype=depth.dtype)
    points_depth = unproject(centres.reshape(1, -1, 2), safe, depth_intrinsics.to(depth), identity)
    pixels, z = project(points_depth, color_intrinsics.to(depth), depth_to_color.to(depth))

    usable = depth_valid & (z > 0).reshape(depth.shape)
    landed = pixels.reshape(views, height, width, 2)
    half_x = _half_spacing(landed[..., 0], usable, dim=2).reshape(views, -1)
    half_y = _half_spacing(landed[..., 1], usable, dim=1).reshape(views, -1)

    out_h, out_w = color_size
    buffer = torch.full((views * out_h * out_w,), torch.inf, dtype=depth.dtype)
    view = (torch.arange(views) * out_h * out_w).unsqueeze(-1).expand(views, height * width)

    def splat(chosen: Tensor, dx: int, dy: int, reach: tuple[Tensor, Tensor] | None = None) -> None:
        px, py = pixels[..., 0][chosen], pixels[..., 1][chosen]
        x, y = px.floor() + dx, py.floor() + dy
        hit = (x >= 0) & (x < out_w) & (y >= 0) & (y < out_h)
        if reach is not None:
            hit &= ((x + 0.5 - px).abs() <= reach[0]) & ((y + 0.5 - py).abs() <= reach[1])
        target = view[chosen][hit] + y[hit].long() * out_w + x[hit].long()
        buffer.scatter_reduce_(0, target, z[chosen][hit], reduce="amin")

    usable = usable.reshape(views, -1)
    splat(usable, 0, 0)
    wide = usable & ((half_x > 0.5) | (half_y > 0.5))  # the others stay within their own pixel
    reach = half_x[wide], half_y[wide]
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dx or dy:
                splat(wide, dx, dy, reach)
    registered = buffer.reshape(views, out_h, out_w)
    valid = registered.isfinite()
    return torch.where(valid, registered, 1), valid


def _half_spacing(landed: Tensor, usable: Tensor, dim: int) -> Tensor:
    """Half the distance from each pixel's landing place to its nearer neighbour's along ``dim``, at least 0.5.

    The nearer one, because across a depth edge the other lands far away.
    """
    length = landed.shape[dim]
    gap = landed.diff(dim=dim).abs()
    both = usable.narrow(dim, 0, length - 1) & usable.narrow(dim, 1, length - 1)
    gap = torch.where(both, gap, torch.inf)
    border = torch.full_like(landed.narrow(dim, 0, 1), torch.inf)
    nearer = torch.minimum(torch.cat([border, gap], dim), torch.cat([gap, border], dim))
    nearer = torch.where(nearer.isfinite(), nearer, 1)
    return (nearer / 2 * 1.01).clamp(0.5, _WIDEST_SPLAT)
