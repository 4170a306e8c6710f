"""Fusions by name."""

from __future__ import annotations

import inspect
from typing import Any

from spatialprior.priors.vega3d.base import Fusion
from spatialprior.priors.vega3d.blends import Add, ChannelConcat, Only, Weighted
from spatialprior.priors.vega3d.cross_attention import CrossAttention
from spatialprior.priors.vega3d.gates import ChannelGate, TokenGate
from spatialprior.registry import suggest

FUSIONS: dict[str, type[Fusion]] = {
    "token_gate": TokenGate,
    "channel_gate": ChannelGate,
    "add": Add,
    "weighted": Weighted,
    "channel_concat": ChannelConcat,
    "cross_attention": CrossAttention,
    "only": Only,
}
"""The rows of the paper's fusion ablation that act token by token or view by view."""


def make_fusion(name: str, channels: int, width: int, **settings: Any) -> Fusion:
    """The fusion called ``name``.

    Args:
        name: Key of :data:`FUSIONS`.
        channels: C of the generative features.
        width: D of the semantic tokens.
        settings: What that class takes beside, e.g. ``form="residual"``.

    Raises:
        ValueError: No such fusion, or a setting that it does not take; one line.
    """
    if name not in FUSIONS:
        raise ValueError(f"unknown fusion {name!r}; {suggest(name, FUSIONS)}")
    fusion = FUSIONS[name]
    known = [
        key for key in inspect.signature(fusion).parameters if key not in ("channels", "width")
    ]
    for key in settings:
        if key not in known:
            raise ValueError(f"fusion {name!r} has no setting {key!r}; {suggest(key, known)}")
    return fusion(channels, width, **settings)
