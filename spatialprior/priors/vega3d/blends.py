"""Fusions without a gate, token by token: sum, weighted mean, concatenation, replacement."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from spatialprior.priors.vega3d.base import NORM_EPS, Fusion, Init, one_of
from spatialprior.priors.vega3d.projector import draw_as_released, silence


class Add(Fusion):
    """``F_sem + F_gen``. Starts as identity with a zero last map in P_gen."""

    def __init__(self, channels: int, width: int, init: Init = "identity") -> None:
        one_of("init", init, get_args(Init))
        super().__init__(channels, width)
        draw_as_released(self)
        self.identity_at_attach = init == "identity"
        if self.identity_at_attach:
            silence(self.projector.mix)

    def fuse(
        self, semantic: Tensor, projected: Tensor, groups: Tensor, positions: Tensor | None
    ) -> Tensor:
        return semantic + projected


class Weighted(Fusion):
    """``(w_1 F_sem + w_2 F_gen) / (w_1 + w_2)`` with two learned scalars.

    Starts as identity with (1, 0), upstream with (0.5, 0.5). Nothing keeps the sum from zero, upstream neither.
    """

    def __init__(self, channels: int, width: int, init: Init = "identity") -> None:
        one_of("init", init, get_args(Init))
        super().__init__(channels, width)
        draw_as_released(self)
        self.identity_at_attach = init == "identity"
        start = [1.0, 0.0] if self.identity_at_attach else [0.5, 0.5]
        self.weights = nn.Parameter(torch.tensor(start))

    def fuse(
        self, semantic: Tensor, projected: Tensor, groups: Tensor, positions: Tensor | None
    ) -> Tensor:
        share = self.weights / self.weights.sum()
        return share[0] * semantic + share[1] * projected


class ChannelConcat(Fusion):
    """``W [F_sem; F_gen] + b``. Starts as identity with ``W = [I, 0]``, unless normalised.

    Args:
        channels, width: C and D.
        normed: LayerNorm on both first, as upstream does.
        init: See :data:`~spatialprior.priors.vega3d.base.Init`.
    """

    def __init__(
        self, channels: int, width: int, normed: bool = False, init: Init = "identity"
    ) -> None:
        one_of("init", init, get_args(Init))
        super().__init__(channels, width)
        self.semantic_norm = nn.LayerNorm(width, eps=NORM_EPS) if normed else nn.Identity()
        self.generative_norm = nn.LayerNorm(width, eps=NORM_EPS) if normed else nn.Identity()
        self.join = nn.Linear(2 * width, width)
        draw_as_released(self)
        self.identity_at_attach = init == "identity" and not normed
        if self.identity_at_attach:
            nn.init.eye_(self.join.weight)  # D x 2D: the identity, then zeros

    def fuse(
        self, semantic: Tensor, projected: Tensor, groups: Tensor, positions: Tensor | None
    ) -> Tensor:
        both = self.semantic_norm(semantic), self.generative_norm(projected)
        joined: Tensor = self.join(torch.cat(both, dim=-1))
        return joined


class Only(Fusion):
    """``F_gen`` in place of ``F_sem``: what the generative features are worth alone. Never an identity."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width)
        draw_as_released(self)

    def fuse(
        self, semantic: Tensor, projected: Tensor, groups: Tensor, positions: Tensor | None
    ) -> Tensor:
        return projected
