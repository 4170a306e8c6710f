"""The contract of a rule: how one code base reads a reply, grades it and sums up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from spatialprior.eval.benchmark import Graded

Record = Mapping[str, Any]
"""One question as its authors publish it."""


class Scored(NamedTuple):
    """A graded reply, as the sums see it.

    Attributes:
        record: The question; at least its columns that the spec names under ``scoring``.
        reply: What the model said.
        score: ``None`` where the rule could not tell.
    """

    record: Record
    reply: str
    score: float | None


class Rule(Protocol):
    """One way to score one benchmark; stateless.

    ``official`` does what the authors' code does, item by item, faults included. ``saner`` mends them
    and is never mixed with it. Others carry the name of the code base that they follow.
    """

    def grade(self, record: Record, reply: str) -> Graded:
        """What ``reply`` is worth. A crash of the code that is followed is ``score=None, unscored=error``."""

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Its sums, under its own names and in its own scale; unscored replies as the code treats them."""
