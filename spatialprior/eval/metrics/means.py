"""Means of scores by a property of their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spatialprior.eval.published.rule import Record, Scored


def means_by(rows: Iterable[Scored], key: Callable[[Record], str]) -> dict[str, float]:
    """``key`` of the record -> mean score, in alphabetical order; an unscored reply counts as 0."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(key(row.record), []).append(row.score or 0.0)
    return {name: sum(part) / len(part) for name, part in sorted(scores.items())}


def mean(rows: Iterable[Scored]) -> float:
    """Mean score; an unscored reply counts as 0, and so does having none at all."""
    scores = [row.score or 0.0 for row in rows]
    return sum(scores) / len(scores) if scores else 0.0
