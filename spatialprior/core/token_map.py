"""Where each visual token sits: (view, row, column) <-> sequence index <-> pixel box.

This is the only place that knows the layout. Everything that crosses between image space and the
decoder's sequence (losses, probes, plots, edits) goes through a :class:`TokenMap`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenMap:
    """Dense layout of the visual tokens of a batch; absent views and cells are marked invalid.

    ``B`` clips, at most ``V`` token views, at most ``N`` tokens a view, tokens in row-major order. A token view
    is a grid of tokens that stands for one view of the clip. Mostly there is one for each; where a video tower
    merges two consecutive frames into one token, the token view stands for the *first* frame of the pair
    (``frame`` 0, 2, 4, ...), and the others have no tokens of their own.

    Visual tokens that belong to no grid (the line breaks and tiles of the LLaVA families) are not in the map.

    Attributes:
        index: ``B V N`` long, position of the token in the (padded) sequence; 0 where not valid.
        valid: ``B V N`` bool.
        grid: ``B V 2`` long, ``(rows, cols)`` of each view; 0 for an absent view.
        frame: ``B V`` long, the view of the clip that the token view stands for; 0 where absent.
        box: ``B V 4`` float, ``(x0, y0, x1, y1)``: the rectangle of clip pixels under the grid. The whole view,
            unless the family's processor crops it (less) or pads it (more: outer tokens then see no pixel).
    """

    index: Tensor
    valid: Tensor
    grid: Tensor
    frame: Tensor
    box: Tensor

    @property
    def num_clips(self) -> int:
        return int(self.index.shape[0])

    @property
    def num_views(self) -> int:
        return int(self.index.shape[1])

    def to(self, device: torch.device | str) -> TokenMap:
        return TokenMap(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def frames(self, clip: int) -> Tensor:
        """``T`` long: which view of the clip each of its token views stands for."""
        present = self.grid[clip].prod(-1) > 0
        return self.frame[clip][present]

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
        x0, y0, x1, y1 = self.box[clip, view].tolist()
        width, height = x1 - x0, y1 - y0
        return (
            x0 + col * width / cols,
            y0 + row * height / rows,
            x0 + (col + 1) * width / cols,
            y0 + (row + 1) * height / rows,
        )

    def gather(self, sequence: Tensor) -> Tensor:
        """Pick the visual tokens out of ``sequence`` (``B S D``) as ``B V N D``; zeros where not valid."""
        b, v, n = self.index.shape
        start = torch.arange(b, device=sequence.device) * sequence.shape[1]
        rows = (self.index + start.view(b, 1, 1)).flatten()
        # Whole rows of one table: several times as fast as torch.gather, backward too.
        tokens = sequence.flatten(0, 1).index_select(0, rows).view(b, v, n, sequence.shape[-1])
        return tokens * self.valid.unsqueeze(-1).to(tokens.dtype)

    def centers(self) -> Tensor:
        """Pixel centre ``(x, y)`` of every token: ``B V N 2`` float (meaningless where not valid)."""
        rows, cols = self.grid.unbind(-1)
        cell = torch.arange(self.index.shape[-1], device=self.index.device)
        cols_or_one = cols.clamp(min=1).unsqueeze(-1)
        row, col = cell // cols_or_one, cell % cols_or_one
        x0, y0, x1, y1 = self.box.unsqueeze(-1).unbind(-2)
        x = x0 + (col + 0.5) * ((x1 - x0) / cols_or_one)
        y = y0 + (row + 0.5) * ((y1 - y0) / rows.clamp(min=1).unsqueeze(-1))
        return torch.stack([x, y], dim=-1)

    def to_patch_units(self, clip: Tensor, view: Tensor, points: Tensor) -> Tensor:
        """Clip pixels to patch coordinates, where cell (row, col) has its centre at (col+0.5, row+0.5).

        Args:
            clip, view: ``P`` long, which view each group of points lies in.
            points: ``P A 2`` float, ``(x, y)`` in clip pixels.
        """
        cells = self.grid[clip, view].to(points.dtype).flip(-1)
        start, end = self.box[clip, view].to(points.dtype).unsqueeze(1).chunk(2, dim=-1)
        return (points - start) * (cells.unsqueeze(1) / (end - start))

    def covers(self, clip: Tensor, view: Tensor, points: Tensor) -> Tensor:
        """``P A`` bool: whether points (as in :meth:`to_patch_units`) lie under the grid of their view."""
        start, end = self.box[clip, view].to(points.dtype).unsqueeze(1).chunk(2, dim=-1)
        return ((points >= start) & (points <= end)).all(-1)
