"""Token cross-entropy, at labelled positions only."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def answer_cross_entropy(
    hidden: Tensor, labels: Tensor, logits: Callable[[Tensor], Tensor]
) -> tuple[Tensor, int]:
    """Summed cross-entropy of the next token, where there is a label.

    Logits exist for labelled positions alone, which is what matters at a 152k vocabulary.

    Args:
        hidden: ``B S D`` final hidden states.
        labels: ``B S``, the token *at* each position, -100 where not scored; the state before it predicts it.
        logits: Output projection, ``P D`` to ``P vocab``.

    Returns:
        The sum over labelled tokens (float32) and their number.
    """
    targets = labels[:, 1:]
    scored = targets != -100
    picked = logits(hidden[:, :-1][scored])
    loss = F.cross_entropy(picked.float(), targets[scored], reduction="sum")
    return loss, int(scored.sum())
