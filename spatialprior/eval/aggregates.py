"""A benchmark's own figures of the whole, each with an interval over scenes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spatialprior.eval.benchmark import Benchmark, micro_and_macro

log = logging.getLogger(__name__)

DRAWS = 200
CRASHES = (ArithmeticError, LookupError, ValueError, TypeError, AssertionError)
"""What sums of others raise where they cannot be had."""
_SAID_NOTHING = "\ufffd"


def aggregates_of(
    benchmark: Benchmark, rows: Sequence[Mapping[str, Any]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Name -> ``value`` and ``ci95`` (``None`` where unknown), always with ``micro`` and ``macro``.

    Whole scenes are drawn with replacement, and the benchmark's sums taken of each draw. A failed question
    counts as a wrong reply, also where a code base leaves empty replies out.

    Args:
        benchmark: Whose sums.
        rows: Of ``replies.jsonl``.
        draws: Resamples. Where the benchmark says that its sums are slow, ``micro`` and ``macro`` alone are
            resampled.
        seed: Of the resampling.
    """
    if not rows:
        return {}
    rows = [{**row, "reply": _SAID_NOTHING} if "error" in row else row for row in rows]
    values = micro_and_macro(rows) | _sums(benchmark, rows)
    quick = benchmark.resamples
    samples: dict[str, list[float]] = {name: [] for name in values}
    for sample in _draws(rows, draws, seed):
        drawn = micro_and_macro(sample)
        if quick:
            try:
                drawn |= benchmark.aggregates(sample)
            except CRASHES:  # a task is missing in this draw
                continue
        for name in samples.keys() & drawn.keys():
            samples[name].append(float(drawn[name]))
    return {
        name: {"value": _finite(value), "ci95": _bounds(samples[name], draws)}
        for name, value in values.items()
    }


def _sums(benchmark: Benchmark, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    try:
        return benchmark.aggregates(rows)
    except CRASHES as error:
        log.warning(
            "%s cannot be summed up (%s: %s); of these questions there is only micro and macro",
            benchmark.name,
            type(error).__name__,
            error,
        )
        return {}


def _draws(rows: Sequence[Mapping[str, Any]], draws: int, seed: int) -> Any:
    scenes: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        scenes.setdefault(row["source_id"], []).append(row)
    groups = list(scenes.values())
    if len(groups) < 2:
        return
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(draws):
        picked = rng.integers(len(groups), size=len(groups)).tolist()
        yield [row for number in picked for row in groups[number]]


def _bounds(samples: Sequence[float], draws: int) -> list[float] | None:
    """The middle 95 %; ``None`` where half of the draws had no value."""
    finite = [value for value in samples if math.isfinite(value)]
    if len(finite) * 2 < draws or not finite:
        return None
    low, high = np.quantile(finite, [0.025, 0.975])
    return [float(low), float(high)]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
