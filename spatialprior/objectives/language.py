"""Token cross-entropy, at labelled positions only."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 256
"""Labelled tokens whose logits are alive at once: 0.16 GB in float32 at a vocabulary of 152k."""


def answer_cross_entropy(
    hidden: Tensor, labels: Tensor, logits: Callable[[Tensor], Tensor], chunk: int = CHUNK
) -> tuple[Tensor, int]:
    """Summed cross-entropy of the next token, where there is a label.

    Logits exist for labelled positions alone, and of more than ``chunk`` of those for one chunk at a time (they
    are computed once more in the backward pass). That is what matters at a vocabulary of 152k.

    Args:
        hidden: ``B S D`` final hidden states.
        labels: ``B S``, the token *at* each position, -100 where not scored; the state before it predicts it.
        logits: Output projection, ``P D`` to ``P vocab``.
        chunk: Labelled tokens at once; 0 takes all, and calls ``logits`` once whatever the batch holds.

    Returns:
        The sum over labelled tokens (float32, or float64 of float64 logits) and their number.
    """
    targets = labels[:, 1:]
    scored = targets != -100
    states, targets = hidden[:, :-1][scored], targets[scored]

    def part(states: Tensor, targets: Tensor) -> Tensor:
        picked = logits(states)
        # float16 and bfloat16 are too coarse for a sum over the vocabulary.
        picked = picked if picked.dtype == torch.float64 else picked.float()
        return F.cross_entropy(picked, targets, reduction="sum")

    if not 0 < chunk < len(targets):
        return part(states, targets), len(targets)
    parts = [
        checkpoint(part, some, wanted, use_reentrant=False)
        for some, wanted in zip(
            torch.split(states, chunk), torch.split(targets, chunk), strict=True
        )
    ]
    return torch.stack(parts).sum(), len(targets)
