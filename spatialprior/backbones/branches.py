"""Sequences of several questions behind one visual prefix: who sees whom, and how long it counts as."""

from __future__ import annotations

import torch
from torch import Tensor

from spatialprior.core.batch import ClipBatch


class ContextLengthError(ValueError):
    """A clip has more tokens than the model's context. The message is one line."""


def check_length(batch: ClipBatch, limit: int) -> None:
    """Raise :class:`ContextLengthError` where a clip is longer than a context of ``limit`` tokens.

    Beyond it positions were never trained, and nothing else would say so. Branches lie beside each other: the
    prefix and the longest of them count.
    """
    if batch.labels.shape[1] <= limit:
        return
    lengths = batch.inputs["attention_mask"].sum(1)
    if batch.branches is not None:
        shared = (batch.branches == 0).sum(1)
        last = range(1, int(batch.branches.max()) + 1)
        lengths = shared + torch.stack([(batch.branches == k).sum(1) for k in last]).amax(0)
    longest = int(lengths.argmax())
    if int(lengths[longest]) > limit:
        raise ContextLengthError(
            f"clip {batch.clip_ids[longest]} has {int(lengths[longest])} tokens, and this model's context "
            f"{limit}: take fewer frames a clip, smaller ones (backbone.max_pixels, the data's max_side) "
            "or fewer turns"
        )


def branch_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask of packed questions, ``B 1 S S``: 0 where seen, the lowest number where not."""
    seen = seen_by_branch(branches)
    mask = torch.zeros(seen.shape, dtype=dtype, device=branches.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)


def seen_by_branch(branches: Tensor) -> Tensor:
    """``B S S`` bool: whether a token (second axis) sees another one (third axis).

    It sees earlier prefix tokens and earlier tokens of its own branch. Padding sees itself only, so that no row
    of the softmax is empty.
    """
    length = branches.shape[1]
    query, key = branches.unsqueeze(2), branches.unsqueeze(1)
    causal = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    seen = causal & (key != -1) & ((key == 0) | (key == query))
    return seen | torch.eye(length, dtype=torch.bool, device=branches.device)


def place_in_row(batch: ClipBatch) -> Tensor:
    """``B S``, how many tokens come before each one of its row, padding not counted; 0 for padding in front."""
    return (batch.inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)


def place_in_branch(branches: Tensor) -> Tensor:
    """``B S``, how many tokens of its own branch come before each token of a branch; 0 elsewhere."""
    place = torch.zeros_like(branches)
    for k in range(1, int(branches.max()) + 1):
        member = branches == k
        place += member * (member.cumsum(1) - 1)
    return place
