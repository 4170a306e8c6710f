"""Reading a grid of token features at sub-patch positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bilinear_cells(points: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around each point and their weights; positions beyond the outer centres are clamped.

    Args:
        points: ``P A 2`` float, ``(x, y)`` in patch units: cell (row, col) is centred at (col+0.5, row+0.5).
        grid: ``P 2`` long, ``(rows, cols)``.

    Returns:
        Cell indices ``P A 4`` (row-major) and weights ``P A 4`` (non-negative, summing to one).
    """
    rows, cols = grid.unbind(-1)
    last = torch.stack([cols, rows], dim=-1).unsqueeze(1).to(points.dtype) - 1
    position = torch.minimum((points - 0.5).clamp(min=0), last)
    low = position.floor()
    high = torch.minimum(low + 1, last)
    frac = position - low
    (x0, y0), (x1, y1) = low.long().unbind(-1), high.long().unbind(-1)
    fx, fy = frac.unbind(-1)
    width = cols.unsqueeze(1)
    cells = torch.stack(
        [y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], dim=-1
    )
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], dim=-1)
    return cells, weights


def bilinear_sample(features: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Interpolate ``features`` (``P N D``) at ``cells``, ``weights`` (``P A 4``): ``P A D``."""
    p, n, d = features.shape
    rows = cells + torch.arange(0, p * n, n, device=cells.device).view(p, 1, 1)
    # A weighted sum of table rows: the four corners are never laid out side by side.
    sampled = F.embedding_bag(
        rows.reshape(-1, 4),
        features.reshape(p * n, d),
        per_sample_weights=weights.reshape(-1, 4).to(features.dtype),
        mode="sum",
    )
    return sampled.view(p, -1, d)
