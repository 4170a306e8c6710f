"""Ground-truth matches between views from depth and pose.

Sampled first: only the anchors are lifted and projected, so the cost grows with anchors and not with pixels,
and all pairs go through one chain of tensor operations.

Depth maps are read between pixel centres through a 4x4 neighbourhood. On a plane the *inverse* depth is linear
in the pixel, so each of the four pixels around a point extrapolates its own surface to the point, with a
one-sided slope that does not cross depth edges. Where the four agree they lie on one surface; where they
disagree, an edge runs between them and each speaks for its own side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spatialprior.geometry.cameras import project, unproject

Edges = Literal["snap", "drop"]
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Tolerance:
    """When two depths count as the same surface: within ``max(absolute, relative * depth)``.

    Attributes:
        absolute: Metres.
        relative: Share of the depth.
        occluded_share: A point beside an edge is hidden once nearer pixels hold more than this share of the
            bilinear weight around it. 0.5 is unbiased; less trades recall for precision.
    """

    absolute: float = 0.03
    relative: float = 0.03
    occluded_share: float = 0.25

    def of(self, depth: Tensor) -> Tensor:
        """Tolerance relative to ``depth``, same shape."""
        return (self.absolute / depth).clamp(min=self.relative)


SENSOR = Tolerance()
"""Real depth cameras and estimated poses."""
EXACT = Tolerance(absolute=0.01, relative=0.01)
"""Rendered depth and known poses."""


@dataclass(frozen=True)
class Matches:
    """``P`` ordered pairs of views with ``A`` anchors each.

    Attributes:
        pairs: ``P 2`` long, views (a, b).
        points_a: ``P A 2`` anchors, pixels. With ``edges="snap"`` an anchor on a depth edge has moved to a
            pixel centre: by at most 0.71 px, beside a hole in the depth by at most 1.41 px.
        points_b: ``P A 2`` the same scene points in b, pixels, sub-pixel; finite everywhere.
        depth_a: ``P A`` depth of the point in a, metres.
        depth_b: ``P A`` depth of the same point in b's camera, metres.
        visible: ``P A`` bool: depth known in a, inside b's image, and the first surface b sees there. All other
            fields are meaningless where this is false.
    """

    pairs: Tensor
    points_a: Tensor
    points_b: Tensor
    depth_a: Tensor
    depth_b: Tensor
    visible: Tensor


def grid_points(
    rows: int, cols: int, height: int, width: int, *, device: torch.device | None = None
) -> Tensor:
    """Cell centres of a ``rows x cols`` grid over the image, row-major: ``rows*cols 2`` float32 pixels."""
    y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * (height / rows)
    x = (torch.arange(cols, dtype=torch.float32, device=device) + 0.5) * (width / cols)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def all_pairs(num_views: int, ordered: bool = True) -> Tensor:
    """All pairs of distinct views, ``P 2`` long: both directions, or only a < b."""
    a, b = torch.meshgrid(torch.arange(num_views), torch.arange(num_views), indexing="ij")
    return torch.stack([a, b], dim=-1)[a != b if ordered else a < b]


def anchor_pairs(num_views: int, anchor: int = 0) -> Tensor:
    """Pairs (anchor, other) for every other view, ``P 2`` long."""
    others = torch.arange(num_views)
    others = others[others != anchor]
    return torch.stack([torch.full_like(others, anchor), others], dim=-1)


def match(
    points_a: Tensor,
    pairs: Tensor,
    depth: Tensor,
    depth_valid: Tensor | None,
    intrinsics: Tensor,
    world_to_cam: Tensor,
    *,
    tolerance: Tolerance = SENSOR,
    edges: Edges = "snap",
) -> Matches:
    """Find where the anchors of view a are seen in view b, for every pair (a, b).

    A scene point is visible in b when, of the four pixels around its projection, at least one shows the
    point's own surface, and nearer surfaces hold at most ``tolerance.occluded_share`` of their weight. (Asking
    for one agreeing pixel alone, as is common, lets hidden points leak through along every silhouette.)

    Args:
        points_a: ``A 2`` (the same for all pairs) or ``P A 2``, pixels.
        pairs: ``P 2`` long.
        depth: ``V H W``, metres along z.
        depth_valid: ``V H W`` bool, or ``None`` where every finite positive depth is valid.
        intrinsics: ``V 3 3``.
        world_to_cam: ``V 4 4``.
        tolerance: :data:`SENSOR` or :data:`EXACT` or your own.
        edges: What becomes of anchors on a depth edge of a, whose depth cannot be interpolated: ``snap`` moves
            them to the nearest pixel centre with depth, ``drop`` makes them invisible.

    Raises:
        ValueError: Shapes do not fit.
    """
    if depth.ndim != 3 or pairs.ndim != 2 or pairs.shape[-1] != 2 or points_a.shape[-1] != 2:
        raise ValueError(
            "match wants depth V H W, pairs P 2 and points_a (P) A 2; got "
            f"{tuple(depth.shape)}, {tuple(pairs.shape)} and {tuple(points_a.shape)}"
        )
    pairs = pairs.to(depth.device)
    view_a, view_b = pairs.unbind(-1)
    intrinsics, world_to_cam = intrinsics.to(depth), world_to_cam.to(depth)
    points = points_a.to(depth)
    if points.ndim == 2:  # the same anchors in every pair: lift them once a view, not once a pair
        sources, row = torch.unique(view_a, return_inverse=True)
        points = points.expand(len(sources), -1, -1)
    else:
        sources, row = view_a, torch.arange(len(pairs), device=depth.device)
    depth_a, known, points = sample_depth(
        depth, depth_valid, points, sources, tolerance=tolerance, edges=edges
    )
    points_world = unproject(points, depth_a, intrinsics[sources], world_to_cam[sources])
    points_b, depth_b = project(points_world[row], intrinsics[view_b], world_to_cam[view_b])

    size = points_b.new_tensor([depth.shape[-1], depth.shape[-2]])
    inside = (depth_b > 0) & ((points_b >= 0) & (points_b <= size)).all(-1)
    around = _surround(depth, depth_valid, points_b.where(inside.unsqueeze(-1), 0), view_b)
    first = _first_surface(around, depth_b.where(inside, 1), tolerance)
    return Matches(pairs, points[row], points_b, depth_a[row], depth_b, known[row] & inside & first)


def sample_depth(
    depth: Tensor,
    depth_valid: Tensor | None,
    points: Tensor,
    views: Tensor | None = None,
    *,
    tolerance: Tolerance = EXACT,
    edges: Edges = "snap",
) -> tuple[Tensor, Tensor, Tensor]:
    """Depth at sub-pixel points, never mixed across a depth edge.

    Args:
        depth: ``V H W``.
        depth_valid: ``V H W`` bool or ``None``.
        points: ``P N 2``, pixels.
        views: ``P`` long, the view of each row of points; ``None`` means row p lies in view p.
        tolerance: How far the pixels around a point may disagree and still be one surface.
        edges: See :func:`match`.

    Returns:
        ``P N`` depth (1 where unknown), ``P N`` bool known, and ``P N 2`` the points the depth belongs to: as
        given, but for those that snapped to a pixel centre.
    """
    if views is None:
        views = torch.arange(len(points), device=depth.device)
    around = _surround(depth, depth_valid, points, views)
    size = points.new_tensor([depth.shape[-1], depth.shape[-2]])
    inside = ((points >= 0) & (points <= size)).all(-1)

    weight = around.weight * around.valid
    total = weight.sum(0).clamp(min=_TINY)
    # Between four valid pixels interpolate; outside the outermost pixel centres only extrapolation is left.
    samples = torch.where(around.valid.all(0), around.inverse, around.extrapolated)
    inverse = (weight * samples).sum(0) / total
    limit = tolerance.of(1 / inverse.clamp(min=_TINY)) * inverse
    agree = (around.extrapolated - inverse).abs() <= limit
    # A hole beside the point may hide an edge; the rim of the image may not.
    smooth = torch.where(around.valid, agree, ~around.in_image).all(0) & around.valid.any(0)
    known, moved = inside & smooth & (inverse > 0), points
    if edges == "snap":
        nearest = torch.where(around.valid, around.weight, -1).argmax(0, keepdim=True)
        snap = inside & ~known & around.valid.any(0)
        inverse = torch.where(snap, around.inverse.gather(0, nearest)[0], inverse)
        right_and_down = torch.stack([nearest[0] % 2, nearest[0] // 2], dim=-1)
        moved = torch.where(snap.unsqueeze(-1), around.corner + 0.5 + right_and_down, points)
        known = known | snap
    return torch.where(known, 1 / inverse.where(known, 1), 1), known, moved


@dataclass(frozen=True)
class _Surround:
    """The four pixels around each point, ``4 P N``: top left, top right, bottom left, bottom right.

    The pixels come first, so that every operation runs over long contiguous rows of points.
    """

    inverse: Tensor  # inverse depth at the pixel's own centre; 0 where not valid
    extrapolated: Tensor  # inverse depth that its surface has at the point
    valid: Tensor  # has depth
    in_image: Tensor
    weight: Tensor  # bilinear
    corner: Tensor  # P N 2, column and row of the top left pixel


def _surround(
    depth: Tensor, depth_valid: Tensor | None, points: Tensor, views: Tensor
) -> _Surround:
    """Read the 4x4 neighbourhood of each point and extrapolate its four inner pixels."""
    height, width = depth.shape[-2:]
    corner = (points - 0.5).floor()
    step = torch.arange(-1, 3, device=depth.device)[:, None, None]
    col, row = corner.long().unbind(-1)
    cols, rows = col + step, row + step  # 4 P N
    col_in, row_in = (cols >= 0) & (cols < width), (rows >= 0) & (rows < height)
    start = rows.clamp(0, height - 1) * width + (views * (height * width)).unsqueeze(-1)
    flat = start.unsqueeze(1) + cols.clamp(0, width - 1)  # 4 4 P N (row, column)
    in_image = row_in.unsqueeze(1) & col_in
    values = depth.reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)
    valid = in_image & (values > 0) & (values < torch.inf)
    if depth_valid is not None:
        valid &= depth_valid.reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)
    inverse = values.reciprocal().where(valid, 0)

    slope_x = _gentlest_slope(inverse[1:3].transpose(0, 1), valid[1:3].transpose(0, 1))
    slope_y = _gentlest_slope(inverse[:, 1:3], valid[:, 1:3])
    off = torch.stack([points - 0.5 - corner, points - 1.5 - corner])  # 2 P N 2: to either side
    off_x, off_y = off[..., 0], off[..., 1].unsqueeze(1)
    inner = inverse[1:3, 1:3]
    return _Surround(
        inverse=inner.flatten(0, 1),
        extrapolated=(inner + slope_x.transpose(0, 1) * off_x + slope_y * off_y).flatten(0, 1),
        valid=valid[1:3, 1:3].flatten(0, 1),
        in_image=in_image[1:3, 1:3].flatten(0, 1),
        weight=((1 - off_y.abs()) * (1 - off_x.abs())).flatten(0, 1),
        corner=corner,
    )


def _gentlest_slope(inverse: Tensor, valid: Tensor) -> Tensor:
    """Slope at the two inner of four samples along dim 0: the smaller of forward and backward difference.

    Across a depth edge a difference is large, so the smaller one stays on the sample's own surface. Zero
    where neither neighbour is valid.
    """
    slope = inverse[1:] - inverse[:-1]
    size = slope.abs().where(valid[1:] & valid[:-1], torch.inf)
    gentlest = torch.where(size[:-1] <= size[1:], slope[:-1], slope[1:])
    return gentlest.where(torch.minimum(size[:-1], size[1:]) < torch.inf, 0)


def _first_surface(around: _Surround, depth: Tensor, tolerance: Tolerance) -> Tensor:
    """Whether a point at ``depth`` (``P N``, positive) is the first surface at its projection."""
    # Inverse depths in units of the point's own: 0 is agreement, positive is nearer to the camera.
    excess = around.extrapolated * depth - 1
    margin = tolerance.of(depth)
    agree = around.valid & (excess.abs() <= margin)
    weight = around.weight * around.valid
    nearer = (weight * (excess > margin)).sum(0) / weight.sum(0).clamp(min=_TINY)
    return agree.any(0) & (nearer <= tolerance.occluded_share)
