"""Feature maps onto the backbone's tokens, by pixel coordinates and nothing else.

Grids of unlike stride, crop or aspect ratio meet in the pixels of the original frame: every token gets the mean
of the cells under its own pixel box, weighted by overlap. Where a token is smaller than a cell, its box is
widened to one cell about its centre, which is linear interpolation between cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spatialprior.core.token_map import TokenMap
from spatialprior.features.maps import FeatureMaps

SEEN = 0.5
"""Share of a token's own box, along each axis, that the map must cover for the token to have a feature."""


def overlap_weights(
    start: float, end: float, count: int, from_start: float, from_end: float, from_count: int
) -> tuple[Tensor, Tensor]:
    """How much each cell of one axis contributes to each token of the same axis.

    Args:
        start, end, count: ``count`` tokens share out ``[start, end]``, pixels.
        from_start, from_end, from_count: ``from_count`` cells share out that interval, pixels.

    Returns:
        ``count from_count`` float64, rows that sum to 1 (to 0 where nothing overlaps), and ``count``: the share
        of each token's own interval that the cells cover.
    """
    cell, token = (from_end - from_start) / from_count, (end - start) / count
    edges = from_start + cell * torch.arange(from_count + 1, dtype=torch.float64)
    center = start + token * (torch.arange(count, dtype=torch.float64) + 0.5)

    def lengths(width: float) -> Tensor:
        low, high = (center - width / 2).unsqueeze(1), (center + width / 2).unsqueeze(1)
        return (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp(min=0)

    width = max(cell, token)
    weights = lengths(width)
    total = weights.sum(1, keepdim=True)
    touching = total > 1e-9 * width  # a sliver of rounding is no overlap
    weights = torch.where(touching, weights / total.where(touching, 1.0), 0.0)
    return weights, lengths(token).sum(1) / token


def onto_tokens(
    maps: FeatureMaps, grid: tuple[int, int], box: tuple[float, float, float, float]
) -> tuple[Tensor, Tensor]:
    """Features of the tokens of one view, row-major.

    Args:
        maps: Of the frame that the view stands for, alone.
        grid: ``(rows, cols)`` of the view's tokens.
        box: Pixels ``(x0, y0, x1, y1)`` of the frame under that grid.

    Returns:
        ``N C`` in the maps' dtype, and ``N`` bool: whether the map covers the token (features are 0 where not).
    """
    x0, y0, x1, y1 = box
    left, top, right, bottom = maps.box
    rows, row_cover = overlap_weights(y0, y1, grid[0], top, bottom, maps.grid[0])
    cols, col_cover = overlap_weights(x0, x1, grid[1], left, right, maps.grid[1])
    values = maps.values[0]
    rows, cols = (w.to(values.device, torch.float32) for w in (rows, cols))
    found = torch.einsum("rh,chw,kw->rkc", rows, values.float(), cols)
    seen = ((row_cover >= SEEN).unsqueeze(1) & (col_cover >= SEEN)).to(values.device)
    found = found * seen.unsqueeze(-1)
    return found.flatten(0, 1).to(values.dtype), seen.flatten()


def align(
    maps: Sequence[Sequence[FeatureMaps]], layout: TokenMap, channels: int
) -> tuple[Tensor, Tensor]:
    """Features of every token of a batch.

    Args:
        maps: For each clip the one-frame maps of its views.
        layout: The batch's token map.
        channels: C of the maps.

    Returns:
        ``B V N C`` features and ``B V N`` bool, whether a token has one.
    """
    device = layout.valid.device
    dtype = next((one.values.dtype for views in maps for one in views), torch.float32)
    features = torch.zeros(*layout.valid.shape, channels, dtype=dtype, device=device)
    seen = torch.zeros_like(layout.valid)
    grids, boxes, frames = layout.grid.tolist(), layout.box.tolist(), layout.frame.tolist()
    for b, clip_maps in enumerate(maps):
        for v, (rows, cols) in enumerate(grids[b]):
            if rows * cols == 0:
                continue
            found, covered = onto_tokens(clip_maps[frames[b][v]], (rows, cols), tuple(boxes[b][v]))
            features[b, v, : rows * cols], seen[b, v, : rows * cols] = found, covered
    return features, seen
