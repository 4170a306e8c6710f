"""Tokens of its own that a prior puts in front of the visual tokens (``Needs.reserve``).

They stand in the sequence from the start, as padding tokens whose embeddings the prior writes over, so that
labels, token maps, caches and generation all know of them. The families' markers of a view stand around each
view's tokens; they stay ordinary tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from spatialprior.core.token_map import TokenMap

Attention = Literal["global", "frame", "frame_causal", "mixed"]
"""Who sees whom among the reserved tokens of a clip (earlier text is always seen, later tokens see them all).

``global``: every one every other. ``frame``: those of the same view. ``frame_causal``: those of the same view
and of earlier views. ``mixed``: ``global`` or ``frame``, drawn for every clip and step in training; ``global``
otherwise.
"""

FramePositions = Literal["shared", "sequential"]
"""Rotary positions: every view the same ones (their order cannot matter then), or one behind the other."""


@dataclass(frozen=True)
class Reserve:
    """What a prior asks for.

    Attributes:
        grid: ``(height, width)`` of a view to ``(rows, cols)`` of its tokens. Loader workers hold a copy.
        box: ``(height, width)`` of a view to the pixels ``(x0, y0, x1, y1)`` under them.
        attention, positions: See their types.
        alone: The views' own visual tokens are left out, and of rows to train on the questions: nobody reads
            them.
    """

    grid: Callable[[tuple[int, int]], tuple[int, int]]
    box: Callable[[tuple[int, int]], tuple[float, float, float, float]]
    attention: Attention = "global"
    positions: FramePositions = "shared"
    alone: bool = False


@dataclass(frozen=True)
class ReservedTokens:
    """The reserved tokens of a batch.

    Attributes:
        token_map: Where they sit.
        patches: ``B S`` bool: the same as a mask.
        view: ``B S`` long: the view whose block (patches and markers) a token belongs to, -1 elsewhere.
        markers: Tokens in front of and behind the patches of each view.
        attention, positions: As asked for.
    """

    token_map: TokenMap
    patches: Tensor
    view: Tensor
    markers: tuple[int, int]
    attention: Attention
    positions: FramePositions

    def to(self, device: torch.device | str) -> ReservedTokens:
        return replace(
            self,
            token_map=self.token_map.to(device),
            patches=self.patches.to(device),
            view=self.view.to(device),
        )
