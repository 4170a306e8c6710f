"""How a recipe chooses a fusion."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass
from typing import Literal

from spatialprior.priors.vega3d.base import Fusion, Init
from spatialprior.priors.vega3d.fusion import FUSIONS, make_fusion
from spatialprior.priors.vega3d.gates import Form

Kind = Literal[
    "token_gate",
    "channel_gate",
    "add",
    "weighted",
    "channel_concat",
    "sequence_concat",
    "cross_attention",
    "only",
]


@dataclass
class FusionConfig:
    """How features and visual tokens become one. A setting that a kind does not know plays no part in it.

    Attributes:
        kind: The fusion. ``sequence_concat`` adds tokens, all others change those there are.
        form: Of the gates: the ``paper``'s (Eq. 8), or ``normed`` or ``residual``, as released.
        init: ``identity`` starts from the unchanged model where the form allows it; ``released`` as upstream.
        gate_bias: Of the gates' logit: positive lets more of the visual tokens through at first.
        normed: Layer norms in front of ``channel_concat``, as upstream.
        layers, heads, dropout: Of ``cross_attention``.
    """

    kind: Kind = "token_gate"
    form: Form = "paper"
    init: Init = "identity"
    gate_bias: float = 0.0
    normed: bool = False
    layers: int = 1
    heads: int | None = None
    dropout: float = 0.0

    def build(self, channels: int, width: int) -> Fusion:
        """The fusion of features of ``channels`` with tokens of ``width``."""
        # Tokens of their own are the projected features alone, written over copies of the visual tokens.
        name = "only" if self.kind == "sequence_concat" else self.kind
        known = inspect.signature(FUSIONS[name]).parameters
        values = {key: value for key, value in asdict(self).items() if key in known}
        return make_fusion(name, channels, width, **values)
