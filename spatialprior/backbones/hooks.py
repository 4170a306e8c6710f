"""The hooks that a backbone places for one pass: they store or replace a tensor, and do nothing else.

Where a layer's hooks run relative to its checkpointed region differs between transformers releases; the
raw tensor is right in both, one derived from it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from spatialprior.core.backbone import Edit
from spatialprior.core.sites import Site, Taps


def store_input(taps: Taps, site: Site) -> Any:
    """Pre-hook of a layer (with keyword arguments): its hidden states go to ``taps[site]``."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        taps[site] = args[0] if args else kwargs["hidden_states"]

    return hook


def store_output(taps: Taps, site: Site) -> Any:
    """Hook of a layer: its output goes to ``taps[site]``."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        taps[site] = output[0] if isinstance(output, tuple) else output

    return hook


def edit_tokens(mask: Tensor, chain: Sequence[Edit]) -> Any:
    """Pre-hook of the decoder: the embeddings under ``mask`` (``B S``) pass through ``chain``.

    Later steps of a generation bring words alone, of another length than the prompt: these pass as they are.
    """

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds = kwargs["inputs_embeds"]
        if embeds.shape[:2] != mask.shape:
            return args, kwargs
        tokens = embeds[mask]
        for edit in chain:
            tokens = edit(tokens)
        assert len(tokens) == int(mask.sum()), "an edit must return as many tokens as it was given"
        expanded = mask.unsqueeze(-1).expand_as(embeds)
        edited = embeds.masked_scatter(expanded, tokens.to(embeds.dtype))
        return args, {**kwargs, "inputs_embeds": edited}

    return hook


def edit_deepstack(chains: Mapping[int, Sequence[Edit]]) -> Any:
    """Pre-hook of a decoder with DeepStack: its features of each level (``T D``) pass through their chain."""

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        features = kwargs["deepstack_visual_embeds"]
        if features is None:  # no image in this batch
            return args, kwargs
        edited = list(features)
        for level, chain in chains.items():
            for edit in chain:
                edited[level] = edit(edited[level]).to(features[level].dtype)
        return args, {**kwargs, "deepstack_visual_embeds": edited}

    return hook
