"""Rules that several choice benchmarks share: EASI's of VLMEvalKit, and the saner one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.parsers.easi_choice import easi_choice
from spatialprior.eval.parsers.plain_choice import plain_choice
from spatialprior.eval.published.rule import Record, Scored

Names = Callable[[Record], Iterable[str]]
"""The sums that a record counts in, by name."""


def group_means(rows: Sequence[Scored], names: Names, scale: float = 1.0) -> dict[str, float]:
    """Mean score of every name, times ``scale``.

    A reply without a score counts as 0: the code that is followed would have stopped there.
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        for name in names(row.record):
            scores.setdefault(name, []).append(row.score or 0.0)
    return {name: sum(of) / len(of) * scale for name, of in scores.items()}


@dataclass(frozen=True)
class EasiChoice:
    """VLMEvalKit's rule for EASI's choice benchmarks: micro mean and means of groups, in percent.

    Source: ``vlmeval/dataset/utils/spatial_bench/cal_scores.py``, ``compute_mcq_score`` and ``eval_mcq_core``.
    The true answer is read by the same parser as the reply; two that cannot be read are equal.

    Attributes:
        truth: The expected answer.
        groups: Values of the columns that its summary groups by.
    """

    truth: Callable[[Record], str]
    groups: Names

    def grade(self, record: Record, reply: str) -> Graded:
        said = easi_choice(reply)
        return Graded(float(said == easi_choice(self.truth(record))), said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``overall`` and ``GROUP_accuracy``, in percent."""
        return group_means(rows, lambda record: ("overall", *self._named(record)), 100.0)

    def _named(self, record: Record) -> list[str]:
        return [f"{group}_accuracy" for group in self.groups(record)]


@dataclass(frozen=True)
class SanerChoice:
    """Ours: what a careful reader takes the reply for, equal to the expected letter or not.

    Attributes:
        truth: The expected letter.
        options: Letter -> text.
        groups: The tasks that a record belongs to.
    """

    truth: Callable[[Record], str]
    options: Callable[[Record], Mapping[str, str]]
    groups: Names

    def grade(self, record: Record, reply: str) -> Graded:
        said = plain_choice(reply, self.options(record))
        return Graded(float(said is not None and said == self.truth(record)), said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``overall``, the mean over items, and the mean of every group (0 to 1)."""
        return group_means(rows, lambda record: ("overall", *self.groups(record)))
