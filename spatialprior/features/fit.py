"""How a frame of any size becomes the input of an encoder, and which of its pixels that input shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from spatialprior.features.maps import Box

Fit = Literal["aspect", "stretch", "crop"]
"""``aspect``: the whole frame, its own aspect ratio, about as many pixels as the wanted size (sides rounded to
the encoder's stride). ``stretch``: the whole frame squeezed into the wanted size. ``crop``: scaled until it
covers the wanted size, then the centre cut out (upstream's way; the borders are not seen)."""


def fitted_size(
    frame: tuple[int, int], wanted: tuple[int, int], fit: Fit, multiple: int
) -> tuple[int, int]:
    """``(height, width)`` of the encoder's input for a ``frame`` of that size.

    Raises:
        ValueError: The wanted size is not a multiple of the encoder's stride.
    """
    if fit == "aspect":
        area, aspect = wanted[0] * wanted[1], frame[0] / frame[1]
        sides = math.sqrt(area * aspect), math.sqrt(area / aspect)
        height, width = (max(multiple, round(side / multiple) * multiple) for side in sides)
        return height, width
    if wanted[0] % multiple or wanted[1] % multiple:
        raise ValueError(f"size={list(wanted)}: this encoder takes multiples of {multiple} pixels")
    return wanted


def fitted_box(frame: tuple[int, int], size: tuple[int, int], fit: Fit) -> Box:
    """Pixels of a ``frame`` ``(height, width)`` that an input of ``size`` shows: whole numbers, as floats."""
    height, width = frame
    if fit != "crop":
        return 0.0, 0.0, float(width), float(height)
    scale = max(size[0] / height, size[1] / width)
    inner_h, inner_w = size[0] / scale, size[1] / scale
    # Whole pixels of the original are cut out, so that the box is exact.
    rows, cols = min(height, max(1, round(inner_h))), min(width, max(1, round(inner_w)))
    top, left = (height - rows) // 2, (width - cols) // 2
    return float(left), float(top), float(left + cols), float(top + rows)


@dataclass(frozen=True)
class PatchGrid:
    """The cells that an encoder makes of a frame, from its settings alone: no weight is loaded.

    It holds for encoders whose cells are ``multiple`` pixels of the input wide and high.

    Attributes:
        size: ``(height, width)`` of the encoder's input, pixels.
        fit: How a frame becomes that input.
        multiple: Side of a cell, pixels of the input.
        pool: ``(rows, cols)`` to which maps are averaged, or ``None``.
    """

    size: tuple[int, int]
    fit: Fit
    multiple: int
    pool: tuple[int, int] | None = None

    def __call__(self, frame: tuple[int, int]) -> tuple[int, int]:
        """``(rows, cols)`` of the map of a ``frame`` ``(height, width)``.

        Raises:
            ValueError: The size is not a multiple of the encoder's stride.
        """
        height, width = fitted_size(frame, self.size, self.fit, self.multiple)
        return self.pool or (height // self.multiple, width // self.multiple)

    def box(self, frame: tuple[int, int]) -> Box:
        """Pixels of the original ``frame`` ``(height, width)`` under the map; raises as calling does."""
        size = fitted_size(frame, self.size, self.fit, self.multiple)
        return fitted_box(frame, size, self.fit)


def fit_frames(
    images: Tensor, wanted: tuple[int, int], fit: Fit, multiple: int
) -> tuple[Tensor, Box]:
    """Frames as the encoder's input, and the pixels of the original that it shows.

    Args:
        images: ``V 3 H W`` uint8.
        wanted: ``(height, width)`` of the input; for ``aspect`` only their product counts.
        fit: See :data:`Fit`.
        multiple: What the input's sides must be multiples of.

    Returns:
        ``V 3 h w`` float32 in [0, 1] (antialiased bicubic, clamped), and the box of original pixels under it.
    """
    height, width = (int(side) for side in images.shape[-2:])
    size = fitted_size((height, width), wanted, fit, multiple)
    box = fitted_box((height, width), size, fit)
    left, top, right, bottom = (int(edge) for edge in box)
    pixels = images[..., top:bottom, left:right].float() / 255
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
    return pixels.clamp(0, 1), box
