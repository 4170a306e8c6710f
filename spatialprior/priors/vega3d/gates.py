"""Adaptive gated fusion: a gate for each token, or for each channel of each token."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from spatialprior.priors.vega3d.base import NORM_EPS, Fusion, Init, one_of
from spatialprior.priors.vega3d.projector import draw_as_released

Form = Literal["paper", "normed", "residual"]
"""``paper``: ``g F_sem + (1 - g) F_gen`` (Eq. 8). ``normed``: the same of the normalised tokens (released for
3D scene understanding). ``residual``: ``F_sem + a (g F_sem + (1 - g) F_gen - F_sem)`` with a learned scalar a
(released for spatial reasoning)."""

_RELEASED_ALPHA = 0.2


class _Gate(Fusion):
    """``g = sigmoid(W [LN(F_sem); LN(F_gen)] + b)``, two LayerNorms of their own (the notes, section 3).

    Only ``residual`` can start as identity, with a = 0.

    Args:
        channels, width: C and D.
        form: See :data:`Form`.
        init: See :data:`~spatialprior.priors.vega3d.base.Init`.
        gate_bias: Start of b; a large one begins close to F_sem.

    Attributes:
        per_channel: A token has D gates, or one.
    """

    per_channel: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        width: int,
        form: Form = "paper",
        init: Init = "identity",
        gate_bias: float = 0.0,
    ) -> None:
        one_of("form", form, get_args(Form))
        one_of("init", init, get_args(Init))
        super().__init__(channels, width)
        self.form = form
        self.semantic_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.generative_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.gate = nn.Linear(2 * width, width if self.per_channel else 1)
        draw_as_released(self)
        nn.init.constant_(self.gate.bias, gate_bias)
        if form == "residual":
            self.identity_at_attach = init == "identity"
            alpha = 0.0 if self.identity_at_attach else _RELEASED_ALPHA
            self.alpha = nn.Parameter(torch.tensor([alpha]))

    def fuse(
        self, semantic: Tensor, projected: Tensor, groups: Tensor, positions: Tensor | None
    ) -> Tensor:
        normed = self.semantic_norm(semantic), self.generative_norm(projected)
        gate = self.gate(torch.cat(normed, dim=-1)).sigmoid()
        first, second = normed if self.form == "normed" else (semantic, projected)
        blend: Tensor = gate * first + (1 - gate) * second
        return semantic + self.alpha * (blend - semantic) if self.form == "residual" else blend


class TokenGate(_Gate):
    """One gate a token, the method's default: about 2D parameters and 4D of the norms."""


class ChannelGate(_Gate):
    """One gate a channel and token."""

    per_channel = True
