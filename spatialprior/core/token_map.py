"""Where each visual token sits: (view, row, column) <-> sequence index <-> pixel box.

This is the only place that knows the layout. Everything that crosses between image space and the
decoder's sequence (losses, probes, plots, edits) goes through a :class:`TokenMap`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenMap:
    """Dense layout of the visual tokens of a batch; absent views and cells are marked invalid.

    ``B`` clips, at most ``V`` views, at most ``N`` tokens a view, tokens in row-major order.

    Attributes:
        index: ``B V N`` long, position of the token in the (padded) sequence; 0 where not valid.
        valid: ``B V N`` bool.
        grid: ``B V 2`` long, ``(rows, cols)`` of each view; 0 for an absent view.
        image_size: ``B V 2`` float, ``(height, width)`` of the view in clip pixels.
    """

    index: Tensor
    valid: Tensor
    grid: Tensor
    image_size: Tensor

    @property
    def num_clips(self) -> int:
        return int(self.index.shape[0])

    @property
    def num_views(self) -> int:
        return int(self.index.shape[1])

    def to(self, device: torch.device | str) -> TokenMap:
        return TokenMap(
            *(t.to(device) for t in (self.index, self.valid, self.grid, self.image_size))
        )

    def sequence_index(self, clip: int, view: int, row: int, col: int) -> int:
        """Position of token (view, row, col) in the sequence of ``clip``."""
        rows, cols = self.grid[clip, view].tolist()
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(
                f"token ({row}, {col}) lies outside the {rows}x{cols} grid of view {view}"
            )
        return int(self.index[clip, view, row * cols + col])

    def locate(self, clip: int, sequence_index: int) -> tuple[int, int, int] | None:
        """``(view, row, col)`` of a sequence position, or ``None`` where no visual token sits."""
        hit = ((self.index[clip] == sequence_index) & self.valid[clip]).nonzero()
        if not len(hit):
            return None
        view, cell = hit[0].tolist()
        cols = int(self.grid[clip, view, 1])
        return view, cell // cols, cell % cols

    def pixel_box(
        self, clip: int, view: int, row: int, col: int
    ) -> tuple[float, float, float, float]:
        """``(x0, y0, x1, y1)`` of the clip pixels that token (row, col) stands for."""
        rows, cols = self.grid[clip, view].tolist()
        height, width = self.image_size[clip, view].tolist()
        return (
            col * width / cols,
            row * height / rows,
            (col + 1) * width / cols,
            (row + 1) * height / rows,
        )

    def gather(self, sequence: Tensor) -> Tensor:
        """Pick the visual tokens out of ``sequence`` (``B S D``) as ``B V N D``; zeros where not valid."""
        b, v, n = self.index.shape
        start = torch.arange(b, device=sequence.device) * sequence.shape[1]
        rows = (self.index + start.view(b, 1, 1)).flatten()
        # Whole rows of one table: several times as fast as torch.gather, backward too.
        tokens = sequence.flatten(0, 1).index_select(0, rows).view(b, v, n, -1)
        return tokens * self.valid.unsqueeze(-1).to(tokens.dtype)

    def centers(self) -> Tensor:
        """Pixel centre ``(x, y)`` of every token: ``B V N 2`` float (meaningless where not valid)."""
        rows, cols = self.grid.unbind(-1)
        cell = torch.arange(self.index.shape[-1], device=self.index.device)
        cols_or_one = cols.clamp(min=1).unsqueeze(-1)
        row, col = cell // cols_or_one, cell % cols_or_one
        height, width = self.image_size.unbind(-1)
        x = (col + 0.5) * (width / cols.clamp(min=1)).unsqueeze(-1)
        y = (row + 0.5) * (height / rows.clamp(min=1)).unsqueeze(-1)
        return torch.stack([x, y], dim=-1)

    def to_patch_units(self, clip: Tensor, view: Tensor, points: Tensor) -> Tensor:
        """Clip pixels to patch coordinates, where cell (row, col) has its centre at (col+0.5, row+0.5).

        Args:
            clip, view: ``P`` long, which view each group of points lies in.
            points: ``P A 2`` float, ``(x, y)`` in clip pixels.
        """
        grid = self.grid[clip, view].to(points.dtype)
        size = self.image_size[clip, view].to(points.dtype)
        return points * (grid / size).flip(-1).unsqueeze(1)
