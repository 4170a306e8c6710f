"""From rows of replies to the figures of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spatialprior.core.intervals import Interval, clustered_interval, paired_interval
from spatialprior.eval.aggregates import aggregates_of
from spatialprior.eval.benchmark import Benchmark
from spatialprior.eval.replies import Row
from spatialprior.eval.rows import question_of, regrade


@dataclass(frozen=True)
class TaskScore:
    """One row of the result.

    Attributes:
        score: Mean score with its 95 % interval, clustered by room or sequence; a missing one is 0.
        chance: Mean probability that a uniform guess among the options is right.
        blind: Mean score of the blind lookup on the same questions; ``None`` without one.
        vs_blind: Paired difference to the lookup, with its interval.
        parse_failures: Replies that were none of the options.
        multi_view: Whether the task needs more than one view.
    """

    score: Interval
    chance: float
    blind: float | None
    vs_blind: Interval | None
    parse_failures: int
    multi_view: bool
    lower_is_better: bool = False

    @property
    def beats_blind(self) -> bool | None:
        """Whether the interval of the difference lies wholly on the better side of zero."""
        if self.vs_blind is None:
            return None
        gap = self.vs_blind
        return gap.high < 0 if self.lower_is_better else gap.low > 0

    def to_dict(self) -> dict[str, Any]:
        """The task's entry in ``report.json``."""
        gap = self.vs_blind
        return {
            "score": self.score.mean,
            "chance": self.chance,
            "blind": self.blind,
            "n": self.score.n,
            "ci95": self.score.bounds,
            "clusters": self.score.num_clusters,
            "parse_failures": self.parse_failures,
            "multi_view": self.multi_view,
            "vs_blind": None if gap is None else {"mean": gap.mean, "ci95": gap.bounds},
            "beats_blind": self.beats_blind,
        }


@dataclass(frozen=True)
class EvalResult:
    """Scores of one exported model on one benchmark.

    Attributes:
        tasks: Task -> its row.
        replies: Every item with its reply, in the benchmark's order, as the report shows them.
        seconds: Time spent answering (not what an earlier, interrupted scoring spent).
        settings: Benchmark, version, engine and so on, to be printed with the numbers.
        aggregates: Name -> ``value`` and ``ci95``: the benchmark's own sums, ``micro`` and ``macro``.
        headline: The aggregate that stands for the whole.
        unscored: Why a reply has no score -> how many.
        errors: Questions that failed.
    """

    tasks: dict[str, TaskScore]
    replies: list[Row]
    seconds: float
    settings: dict[str, Any]
    aggregates: dict[str, dict[str, Any]] = field(default_factory=dict)
    headline: str = "micro"
    unscored: dict[str, int] = field(default_factory=dict)
    errors: int = 0

    @property
    def n(self) -> int:
        """Questions, those that failed and those without a score among them."""
        return len(self.replies)

    @property
    def micro(self) -> float | None:
        """Mean over items; ``None`` without any."""
        return self.aggregates.get("micro", {}).get("value")

    @property
    def macro(self) -> float | None:
        """Mean over the means of tasks."""
        return self.aggregates.get("macro", {}).get("value")

    @property
    def parse_failure_rate(self) -> float:
        """Share of the questions whose reply was none of the options; those that failed do not count."""
        return sum(map(_unparsed, self.replies)) / len(self.replies) if self.replies else 0.0

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How questions were put and replies read."""
        return self.settings.get("protocol", {})

    def to_dict(self) -> dict[str, Any]:
        """The ``eval`` section of ``report.json``: task -> row."""
        return {task: row.to_dict() for task, row in self.tasks.items()}

    def kept(self) -> dict[str, Any]:
        """All of it, as a run keeps it."""
        return {
            "tasks": self.to_dict(),
            "replies": self.replies,
            "settings": self.settings,
            "aggregates": self.aggregates,
            "headline": self.headline,
            "protocol": self.protocol,
            "unscored": self.unscored,
            "errors": self.errors,
        }


def result_of(
    benchmark: Benchmark, rows: Sequence[Row], settings: Mapping[str, Any], seconds: float = 0.0
) -> EvalResult:
    """The figures of graded rows."""
    return EvalResult(
        tasks=_tasks(benchmark, rows),
        replies=list(rows),
        seconds=seconds,
        settings=dict(settings),
        aggregates=aggregates_of(benchmark, rows),
        headline=benchmark.headline,
        unscored=dict(Counter(row["unscored"] for row in rows if "unscored" in row)),
        errors=sum("error" in row for row in rows),
    )


def rescore(
    rows: Sequence[Mapping[str, Any]],
    benchmark: Benchmark,
    settings: Mapping[str, Any] | None = None,
) -> EvalResult:
    """The figures of stored rows, graded again, without a model.

    Args:
        rows: Of a ``replies.jsonl``.
        benchmark: Whose questions they answer.
        settings: To be printed with the numbers, such as the identity in the file's first line.
    """
    return result_of(benchmark, regrade(benchmark, rows), settings or {})


def _tasks(benchmark: Benchmark, rows: Sequence[Row]) -> dict[str, TaskScore]:
    lookup = benchmark.blind()
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    names = [t for t in benchmark.tasks if t in by_task]
    names += [t for t in by_task if t not in names]
    return {task: _task(benchmark, by_task[task], lookup) for task in names}


def _task(benchmark: Benchmark, rows: Sequence[Row], lookup: Any) -> TaskScore:
    scores = [row["score"] or 0.0 for row in rows]
    clusters = [row["source_id"] for row in rows]
    blind = gap = None
    if lookup is not None:
        questions = [question_of(row) for row in rows]
        guesses = [benchmark.score(lookup.predict(question), question) for question in questions]
        blind = sum(guesses) / len(guesses)
        gap = paired_interval(scores, guesses, clusters)
    return TaskScore(
        score=clustered_interval(scores, clusters),
        chance=sum(row["chance"] for row in rows) / len(rows),
        blind=blind,
        vs_blind=gap,
        parse_failures=sum(map(_unparsed, rows)),
        multi_view=rows[0]["task"] in benchmark.multi_view,
        lower_is_better=benchmark.direction == "lower",
    )


def _unparsed(row: Row) -> bool:
    return row["parsed"] is None and "error" not in row
