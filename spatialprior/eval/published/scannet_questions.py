"""What SQA3D and ScanQA share in Video-3D-LLM's layout: questions about the frames of one ScanNet scene.

``root`` is that project's ``data`` folder: ``processed/*_llava_style.json``, made by its
``scripts/3d/preprocessing/process_*.py``, and ``scannet/posed_images/SCENE/*.jpg``.
"""

from __future__ import annotations

from typing import Any

from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record

PLACEHOLDER = "<image>"


class ScanNetQuestions(PublishedBenchmark):
    """A record has ``id``, ``video`` (``scannet/SCENE``), ``conversations`` (user, model) and ``metadata``."""

    def prompt(self, record: Record) -> str:
        """The user's turn; its placeholder stands for the frames, which come first here anyway."""
        return str(record["conversations"][0]["value"]).replace(PLACEHOLDER, "").lstrip(" ")

    def media(self, record: Record) -> Media:
        dataset, _, scene = str(record["video"]).rpartition("/")
        return Media(key=str(record["video"]), folder=f"{dataset}/posed_images/{scene}")

    def answer(self, record: Record) -> str:
        return str(expected(record))


def expected(record: Record) -> Any:
    """The answer in the model's turn, under whichever name a record has it.

    ``gt_response`` (what the official model scripts write and the scorers read), ``conversations[1].value``
    (the processed files), ``answers[0]``, ``[0].answer`` too (SQA3D's own annotations), ``answer`` or
    ``ground_truth``.

    Raises:
        KeyError: None of them is there.
    """
    if "gt_response" in record:
        return record["gt_response"]
    if record.get("conversations"):
        return record["conversations"][1]["value"]
    if answers := _listed(record):
        return answers[0]
    for name in ("answer", "ground_truth"):
        if name in record:
            return record[name]
    raise KeyError("gt_response")


def accepted(record: Record) -> list[Any]:
    """All answers that count: ``metadata.answers`` (the processed file), ``answers``, or the one expected.

    Raises:
        KeyError: None is there.
    """
    answers = _listed(record)
    return [expected(record)] if answers is None else answers


def _listed(record: Record) -> list[Any] | None:
    metadata = record.get("metadata") or {}
    answers = metadata.get("answers", record.get("answers"))
    if answers is None:
        return None
    if isinstance(answers, str):
        return [answers]
    return [each["answer"] if isinstance(each, dict) else each for each in answers]
