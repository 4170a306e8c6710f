"""Stored replies graded again, without the model and without the benchmark's data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from spatialprior.eval.ablation.benchmark import Ablated
from spatialprior.eval.benchmark import Benchmark
from spatialprior.eval.cards.card import CardError, ResultCard
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.replies import Row
from spatialprior.eval.rows import regrade
from spatialprior.registry import BENCHMARKS, RegistryError

UNREAD = "(not read)"
"""Stands for the folder of the data, which grading does not open."""


def regraded(benchmark: Benchmark, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows as the benchmark's rule grades their replies now; one that failed is as it was.

    Raises:
        CardError: The rule needs more than is stored.
    """
    try:
        return regrade(benchmark, rows)
    except (AttributeError, RuntimeError) as error:
        raise CardError(f"{benchmark.name} cannot grade without its data: {error}") from None


def grader(card: ResultCard) -> Benchmark:
    """The card's benchmark, able to grade and to sum up; asking it for items may fail.

    Raises:
        CardError: It is not installed here, or its settings are not of this version.
    """
    name = card.benchmark["name"]
    try:
        cls: Any = BENCHMARKS.get(name)
        config = BENCHMARKS.configured(name, _settings(card), "benchmark.settings")
        if issubclass(cls, PublishedBenchmark):
            return _as_asked(cls(dataclasses.replace(config, root=UNREAD)), card)
    except RegistryError as error:
        raise CardError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise CardError(f"the card's settings of {name} do not fit this version: {error}") from None
    # Making one opens the data that it asks about; what it learns there, grading does not need.
    bare: Benchmark = object.__new__(cls)
    bare.config = config
    return _as_asked(bare, card)


def _as_asked(benchmark: Benchmark, card: ResultCard) -> Benchmark:
    """The benchmark with its views taken away, where they were."""
    ablation = card.protocol.get("ablation")
    return benchmark if ablation is None else Ablated(benchmark, ablation)


def _settings(card: ResultCard) -> dict[str, Any]:
    stored = card.benchmark["settings"]
    return {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
