"""One line of ``replies.jsonl``: a question, what came of it, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from spatialprior.core.clip import Question
from spatialprior.eval.answers import chance
from spatialprior.eval.benchmark import Benchmark, Graded, Item, LazyViews
from spatialprior.eval.replies import Reply, Row


def without_views(item: Item) -> Item:
    """What is kept of an item once it is answered; its record as it will be read from a file.

    Raises:
        ValueError: The record is not of plain values.
    """
    try:
        record = json.loads(json.dumps(item.record))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the record of item {item.item_id} must be of plain JSON values: {error}"
        ) from None
    clip = item.clip
    views = LazyViews(clip.clip_id, clip.source_id, clip.num_views, _gone)
    return replace(item, clip=views, record=record)


def row_of(benchmark: Benchmark, item: Item, reply: Reply) -> Row:
    """The line of an item (of :func:`without_views`). One that failed is worth nothing, whatever "" is."""
    question = item.question
    graded = Graded(0.0, None) if reply.error else benchmark.grade(reply.text, item)
    row = {
        "id": item.item_id,
        "clip_id": item.clip.clip_id,
        "source_id": item.clip.source_id,
        "task": question.task,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
        "record": item.record,
        "reply": reply.text,
        "parsed": graded.parsed,
        "score": graded.score,
        "correct": graded.score == 1.0,
        "chance": chance(question),
    }
    if graded.score is None:
        row["unscored"] = graded.unscored or "no reason given"
    if reply.error:
        row["error"] = reply.error
    return row


def reply_of(row: Mapping[str, Any]) -> Reply:
    """What came of a row's question."""
    return Reply(row["reply"], row.get("error"))


def question_of(row: Mapping[str, Any]) -> Question:
    """A row's question."""
    return Question(row["task"], row["question"], row["answer"], tuple(row["options"]))


def regrade(benchmark: Benchmark, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Stored rows as ``benchmark`` grades their replies now, without its data and without a model."""
    return [row_of(benchmark, _item_of(row), reply_of(row)) for row in rows]


def _item_of(row: Mapping[str, Any]) -> Item:
    views = LazyViews(row["clip_id"], row["source_id"], 0, _gone)
    return Item(row["id"], views, question_of(row), row.get("record", {}))


def _gone() -> NoReturn:
    raise RuntimeError("replies are graded without views")
