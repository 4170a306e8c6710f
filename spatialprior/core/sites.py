"""Named places where a prior may read or change the decoder, and the tensors read there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NewType

from torch import Tensor

Site = NewType("Site", str)

VISUAL_TOKENS = Site("visual_tokens")
"""Edit site: the embeddings of all visual tokens before the first decoder layer (``T D``, in sequence order).

It covers no more than these: where a family adds visual features to later layers as well, those are edit
sites of their own, see :func:`deepstack`."""

RESERVED_TOKENS = Site("reserved_tokens")
"""Edit site: the embeddings of the tokens that a prior has reserved (``T D``, in sequence order)."""

FINAL_HIDDEN = Site("final_hidden")
"""Tap: what leaves the decoder, after its final norm."""


class SiteError(ValueError):
    """A prior asks for a place that this decoder does not have. The message is one line."""


Taps = dict[Site, Tensor]
"""What was read: site -> the raw tensor (``B S D``), still attached to the autograd graph."""

_RESIDUAL = re.compile(r"residual_(in|out)\[(\d+)\]")


def deepstack(level: int) -> Site:
    """Edit site: the features that DeepStack adds to the visual tokens right after decoder layer ``level``.

    ``T D``, in the order of :data:`VISUAL_TOKENS`; only families with DeepStack have it (Qwen3-VL: 0, 1 and 2).
    A prior that means to change everything the decoder sees of an image names these sites beside
    ``visual_tokens`` in its ``Needs.edits``; one that names ``visual_tokens`` alone leaves them as they are.
    """
    return Site(f"deepstack[{level}]")


def residual_in(layer: int) -> Site:
    """Hidden states that enter decoder layer ``layer``, whatever was added since the layer before."""
    return Site(f"residual_in[{layer}]")


def residual_out(layer: int) -> Site:
    """Hidden states that leave decoder layer ``layer``, before any later addition and before the final norm."""
    return Site(f"residual_out[{layer}]")


def parse_residual(site: Site, num_layers: int) -> tuple[str, int]:
    """Split a residual site into (``"in"`` or ``"out"``, layer).

    Raises:
        ValueError: The site does not exist in a decoder of ``num_layers`` layers.
    """
    match = _RESIDUAL.fullmatch(site)
    if match is None or int(match[2]) >= num_layers:
        raise ValueError(
            f"unknown site {site!r}: this backbone has {VISUAL_TOKENS!r}, "
            f"residual_in[0..{num_layers - 1}] and residual_out[0..{num_layers - 1}]"
        )
    return match[1], int(match[2])


def resolve_layers(spec: str | Iterable[int], num_layers: int) -> list[int]:
    """Decoder layers meant by ``"all"``, ``"every_4"``, ``"10-18"`` (inclusive) or a list of indices.

    Raises:
        SiteError: The text has none of these forms, or a layer does not exist.
    """
    if isinstance(spec, str):
        if spec == "all":
            return list(range(num_layers))
        if match := re.fullmatch(r"every_([1-9]\d*)", spec):
            layers = list(range(int(match[1]) - 1, num_layers, int(match[1])))
        elif match := re.fullmatch(r"(\d+)-(\d+)", spec):
            layers = list(range(int(match[1]), int(match[2]) + 1))
        else:
            raise SiteError(
                f"layers={spec!r}: write all, every_N, FIRST-LAST or a list such as [0,3]"
            )
    else:
        layers = sorted({int(layer) for layer in spec})
    if not layers or layers[0] < 0 or layers[-1] >= num_layers:
        raise SiteError(f"layers={spec!r}: this decoder has layers 0 to {num_layers - 1}")
    return layers
