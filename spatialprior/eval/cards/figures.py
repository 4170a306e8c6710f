"""All figures of a card, from rows of graded replies alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spatialprior.core.intervals import clustered_interval
from spatialprior.eval.benchmark import Benchmark

Row = Mapping[str, Any]


def figures(
    benchmark: Benchmark, rows: Sequence[Row], aggregates: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """``headline``, ``aggregates`` (with ``micro`` and ``macro``), ``tasks`` and counts.

    A reply without a score (``unscored``, ``error``) counts as 0, as in
    :func:`~spatialprior.eval.benchmark.micro_and_macro`. Intervals are 95 %, clustered by ``source_id``.

    Args:
        benchmark: Whose; its data is not read.
        rows: As the evaluator gives them, in the benchmark's order, on which the bootstrap's draws depend.
        aggregates: What :func:`~spatialprior.eval.aggregates.aggregates_of` says of them.
    """
    whole = _interval(rows)
    nothing = {"value": None, "ci95": None}
    failures = sum(map(_is_parse_failure, rows))
    return {
        "headline": {"name": benchmark.headline, **aggregates.get(benchmark.headline, nothing)},
        "aggregates": dict(aggregates),
        "n": len(rows),
        "clusters": whole["clusters"],
        "chance": _mean(rows, "chance"),
        "parse_failures": failures,
        "parse_failure_rate": failures / len(rows) if rows else None,
        "unscored": dict(Counter(row["unscored"] for row in rows if row.get("unscored"))),
        "errors": sum(row.get("error") is not None for row in rows),
        "tasks": {
            task: _task(benchmark, task, [row for row in rows if row["task"] == task])
            for task in dict.fromkeys(row["task"] for row in rows)
        },
    }


def _task(benchmark: Benchmark, task: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        **_interval(rows),
        "n": len(rows),
        "chance": _mean(rows, "chance"),
        "parse_failures": sum(map(_is_parse_failure, rows)),
        "unscored": sum(row.get("unscored") is not None for row in rows),
        "multi_view": task in benchmark.multi_view,
    }


def _interval(rows: Sequence[Row]) -> dict[str, Any]:
    found = clustered_interval(
        [row["score"] or 0.0 for row in rows], [row["source_id"] for row in rows]
    )
    return {"score": found.mean, "ci95": found.bounds, "clusters": found.num_clusters}


def _mean(rows: Sequence[Row], name: str) -> float | None:
    return sum(row[name] for row in rows) / len(rows) if rows else None


def _is_parse_failure(row: Row) -> bool:
    """A reply that was there and read as nothing; without one (``error``), nothing was there to read."""
    return row["parsed"] is None and row.get("error") is None
