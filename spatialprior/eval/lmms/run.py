"""lmms-eval on local data from Python: one call, and its scores item by item."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.installed import tasks_folder, version
from spatialprior.eval.lmms.tasks import LocalTasks, local_tasks, set_environment

_OF_ALL = frozenset(
    {
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps"),
        *("token_counts", "doc_hash", "input_media"),
    }
)
_SCORES = (
    "score",
    "is_correct",
    "correct",
    "rating",
    "accuracy",
    "MRA:.5:.95:.05",
    "vci_metric",
    "exact_match",
)
"""Under which names tasks keep what an item is worth, inside what they hand to their sums."""


@dataclass(frozen=True)
class LmmsItem:
    """One scored document.

    Attributes:
        task: Of lmms-eval.
        doc_id: Its row number.
        document: Its columns, without pictures.
        reply: What the task's own rule was given: lmms-eval strips white space around it.
        score: What lmms-eval gave; ``None`` where its metric has no score for one item.
        judged: Its rules did not read the reply, and it would ask a paid judge.
    """

    task: str
    doc_id: int
    document: Mapping[str, Any]
    reply: str
    score: float | None
    judged: bool = False


@dataclass(frozen=True)
class LmmsResult:
    """One run.

    Attributes:
        items: Of all tasks, in the order of tasks and rows.
        aggregates: Task or group -> metric -> value, as lmms-eval sums up.
        release: Of lmms-eval.
        mended: Faults of it that were mended.
    """

    items: tuple[LmmsItem, ...]
    aggregates: dict[str, dict[str, float]]
    release: str
    mended: tuple[str, ...]


def simple_evaluate(
    model: Any,
    tasks: Sequence[str] | LocalTasks,
    data: Path | None = None,
    *,
    limit: int | None = None,
    work: Path | None = None,
) -> LmmsResult:
    """Score a model with lmms-eval's ``simple_evaluate`` on local data.

    Args:
        model: An instance of a model of lmms-eval, such as ``SpatialPriorLmms(EXPORT)``.
        tasks: Names, or what :func:`~spatialprior.eval.lmms.tasks.local_tasks` made of them.
        data: Where the data lies; needed with names.
        limit: Only so many documents of each task, the first ones.
        work: Where copies of tasks go; by default a folder that is removed afterwards.

    Raises:
        LmmsError: lmms-eval, a task or its data is not there.
    """
    tasks_folder()
    if not isinstance(tasks, LocalTasks):
        if data is None:
            raise LmmsError("say where the data lies: data=FOLDER")
        with tempfile.TemporaryDirectory(prefix="spatialprior-lmms-") as folder:
            copied = local_tasks(tasks, data, work or Path(folder))
            return simple_evaluate(model, copied, limit=limit)
    with set_environment(tasks.environment):
        from lmms_eval.evaluator import simple_evaluate as theirs
        from lmms_eval.tasks import TaskManager

        found = theirs(
            model=model,
            tasks=list(tasks.names),
            # Alone: of two tasks with one name, lmms-eval takes its own.
            task_manager=TaskManager(include_path=str(tasks.folder), include_defaults=False),
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            process_docs_parallel=1,  # some tasks draw an answer where they read none: the same each time
        )
    return LmmsResult(
        items=tuple(
            _item(task, sample) for task, samples in found["samples"].items() for sample in samples
        ),
        aggregates={
            name: {
                key.partition(",")[0]: float(value)
                for key, value in values.items()
                if isinstance(value, (int, float)) and "_stderr" not in key
            }
            for name, values in found["results"].items()
        },
        release=version(),
        mended=tasks.mended,
    )


def _item(task: str, sample: Mapping[str, Any]) -> LmmsItem:
    metrics = [value for name, value in sample.items() if name not in _OF_ALL]
    scores = [score for score in map(score_of, metrics) if score is not None]
    return LmmsItem(
        task=task,
        doc_id=int(sample["doc_id"]),
        document=sample["doc"],
        reply=str(sample["filtered_resps"][0]).strip(),
        score=scores[0] if scores else None,
        judged=any(isinstance(m, Mapping) and m.get("match_success") is False for m in metrics),
    )


def score_of(metric: Any) -> float | None:
    """What one item is worth, from what a task returns for it under a metric; ``None`` where nothing says."""
    if isinstance(metric, (bool, int, float)):
        return float(metric)
    if isinstance(metric, Mapping):
        for name in _SCORES:
            if isinstance(metric.get(name), (bool, int, float)):
                return float(metric[name])
    return None
