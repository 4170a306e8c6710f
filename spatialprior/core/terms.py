"""Losses as sum and count, so that accumulation and unequal ranks still give the true mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One additive part of the objective.

    Attributes:
        name: ``<owner>/<term>``, as it appears in the log.
        sum: Scalar, differentiable, summed over ``count`` items. With no item it is still connected
            to the owner's parameters and exactly zero, so that every rank takes part in the backward pass.
        count: How many items were summed (a float: terms averaged over layers count each item once).
        weight: Factor of the mean in the total.
    """

    name: str
    sum: Tensor
    count: float
    weight: float = 1.0

    @property
    def mean(self) -> Tensor:
        """The raw (unweighted) mean over this term's own items; zero without items."""
        return self.sum / max(self.count, 1.0)


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite; the message names the term and the clips of the batch."""


def total_loss(terms: list[LossTerm], counts: dict[str, float]) -> Tensor:
    """Weighted sum of means, each mean taken over ``counts`` (the items of the whole optimiser step).

    Args:
        terms: The terms of one micro-batch.
        counts: Items per term name over all micro-batches (and ranks) of the step.
    """
    if not terms:
        raise ValueError(
            "no loss term: the batch has neither labels nor a prior that applies to it"
        )
    parts = [term.weight * term.sum / max(counts[term.name], 1.0) for term in terms]
    return torch.stack([part.float() for part in parts]).sum()


def check_finite(terms: list[LossTerm], clip_ids: tuple[str, ...]) -> None:
    """Raise :class:`NonFiniteLossError` when a term is not a finite number."""
    for term in terms:
        if not bool(torch.isfinite(term.sum.detach()).all()):
            raise NonFiniteLossError(
                f"loss term {term.name} is {term.sum.item()} on clips {', '.join(clip_ids)}; "
                "lower the learning rate, or look at these clips"
            )
