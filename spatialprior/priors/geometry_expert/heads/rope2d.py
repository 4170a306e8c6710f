"""2D rotary positions of the patches of a grid (``g2vlm.md`` section 2: base 100, half of a head each axis)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 100.0


class Angles(NamedTuple):
    """Cosine and sine of every patch's rotation, ``P C`` float32 each, C the channels of a head."""

    cosine: Tensor
    sine: Tensor


def grid_angles(grid: tuple[int, int], channels: int, device: torch.device) -> Angles:
    """Rotations of a grid's patches, row by row.

    Channels of a head are ``[row | column]``; of each half, channel k and k + C/4 are a pair that turns by
    ``position * BASE ** (-k / (C/4))`` radians. Positions count patches from 0.

    Args:
        grid: ``(rows, cols)``.
        channels: C, a multiple of 4.
        device: Where the angles are wanted.
    """
    quarter = channels // 4
    rows, cols = (torch.arange(side, dtype=torch.float32, device=device) for side in grid)
    speed = BASE ** -(torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    of_row = (rows[:, None] * speed).repeat(1, 2)[:, None].expand(-1, len(cols), -1)
    of_col = (cols[:, None] * speed).repeat(1, 2)[None].expand(len(rows), -1, -1)
    turn = torch.cat([of_row, of_col], dim=-1).flatten(0, 1)
    return Angles(turn.cos(), turn.sin())


def rotate(states: Tensor, angles: Angles) -> Tensor:
    """Turn queries or keys ``N heads P C`` by their patches' angles, computed in float32; dtype stays."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    first, second = wide.view(*wide.shape[:-1], 2, 2, -1).unbind(-2)
    partner = torch.stack([-second, first], dim=-2).flatten(-3)
    return (wide * angles.cosine + partner * angles.sine).to(states.dtype)
