"""Means of scores: of rows, by properties of their records, and of means."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spatialprior.eval.published.rule import Record, Scored

Names = Callable[[Record], Iterable[str]]
"""The means that a record counts in, by name."""


def mean_of(values: Iterable[float]) -> float:
    """Unweighted mean; 0 without any."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def mean(rows: Iterable[Scored]) -> float:
    """Mean score; an unscored reply counts as 0, and so does having none at all."""
    return mean_of(row.score or 0.0 for row in rows)


def group_means(rows: Iterable[Scored], names: Names, scale: float = 1.0) -> dict[str, float]:
    """Mean score of every name, times ``scale``, in the order in which names come up.

    An unscored reply counts as 0: the code that is followed would have stopped there.
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        for name in names(row.record):
            scores.setdefault(name, []).append(row.score or 0.0)
    return {name: mean_of(part) * scale for name, part in scores.items()}


def means_by(rows: Iterable[Scored], key: Callable[[Record], str]) -> dict[str, float]:
    """``key`` of the record -> mean score, in alphabetical order; an unscored reply counts as 0."""
    return dict(sorted(group_means(rows, lambda record: (key(record),)).items()))
