"""Feature maps of frames, and the pixels under each of their cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[float, float, float, float]
"""``(x0, y0, x1, y1)``, pixels; an image spans ``(0, 0, W, H)``."""


@dataclass(frozen=True)
class FeatureMaps:
    """One map for each frame, row-major, cell (0, 0) at the top left.

    Attributes:
        values: ``V C h w``.
        box: Pixels of the *original* frame under the map: the whole frame, or the crop that the encoder saw.
            The same for all frames, since these share one size.
    """

    values: Tensor
    box: Box

    @property
    def grid(self) -> tuple[int, int]:
        """``(rows, cols)``."""
        return int(self.values.shape[2]), int(self.values.shape[3])

    def frames(self) -> list[FeatureMaps]:
        """One-frame maps, one for each frame."""
        return [replace(self, values=one) for one in self.values.unsqueeze(1)]

    def cell_boxes(self) -> Tensor:
        """``h w 4`` float64: the pixels ``(x0, y0, x1, y1)`` under every cell."""
        rows, cols = self.grid
        x0, y0, x1, y1 = self.box
        x = torch.linspace(x0, x1, cols + 1, dtype=torch.float64)
        y = torch.linspace(y0, y1, rows + 1, dtype=torch.float64)
        top, left = torch.meshgrid(y[:-1], x[:-1], indexing="ij")
        bottom, right = torch.meshgrid(y[1:], x[1:], indexing="ij")
        return torch.stack([left, top, right, bottom], dim=-1)

    def pooled(self, rows: int, cols: int) -> FeatureMaps:
        """The mean of about equal numbers of cells (``adaptive_avg_pool2d``), over the same pixels."""
        if self.grid == (rows, cols):
            return self
        pooled = F.adaptive_avg_pool2d(self.values.float(), (rows, cols))
        return replace(self, values=pooled.to(self.values.dtype))
