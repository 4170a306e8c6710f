"""Stored replies graded again, without the model and without the benchmark's data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from spatialprior.core.clip import Question
from spatialprior.eval.benchmark import Benchmark, Item, LazyViews
from spatialprior.eval.cards.card import CardError, ResultCard
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.registry import BENCHMARKS, RegistryError

UNREAD = "(not read)"
"""Stands for the folder of the data, which grading does not open."""


def regrade(benchmark: Benchmark, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the benchmark's rule grades their replies now; one that failed is as it was."""
    return [dict(row) if row.get("error") is not None else _graded(benchmark, row) for row in rows]


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
            found: Benchmark = cls(dataclasses.replace(config, root=UNREAD))
            return found
    except RegistryError as error:
        raise CardError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise CardError(f"the card's settings of {name} do not fit this version: {error}") from None
    # Making one opens the data that it asks about; what it learns there, grading does not need.
    bare: Benchmark = object.__new__(cls)
    bare.config = config
    return bare


def _settings(card: ResultCard) -> dict[str, Any]:
    stored = card.benchmark["settings"]
    return {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}


def _graded(benchmark: Benchmark, row: Mapping[str, Any]) -> dict[str, Any]:
    question = Question(row["task"], row["question"], row["answer"], tuple(row["options"]))
    views = LazyViews(row["clip_id"], row["source_id"], 0, _no_views)
    try:
        graded = benchmark.grade(
            row["reply"], Item(row["id"], views, question, row.get("record") or {})
        )
    except AttributeError as error:
        raise CardError(f"{benchmark.name} cannot grade without its data: {error}") from None
    again = {key: value for key, value in row.items() if key != "unscored"} | {
        "parsed": graded.parsed,
        "score": graded.score,
        "correct": graded.score == 1.0,
    }
    return (
        again
        if graded.score is not None
        else again | {"unscored": graded.unscored or "no reason given"}
    )


def _no_views() -> NoReturn:
    raise CardError("a benchmark that grades by its views cannot be verified from replies alone")
