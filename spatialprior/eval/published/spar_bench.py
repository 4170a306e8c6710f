"""SPAR-Bench: twenty tasks over one or several views, answered by a letter, a number, or a camera motion."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.guarded_accuracy import guarded_accuracy
from spatialprior.eval.parsers import vlmevalkit_spatial
from spatialprior.eval.parsers.camera_moves import (
    along_axes,
    exact_moves,
    found_moves,
    trimmed_moves,
)
from spatialprior.eval.parsers.easi_choice import easi_choice
from spatialprior.eval.parsers.first_word import to_float
from spatialprior.eval.parsers.plain_choice import plain_choice, plain_number
from spatialprior.eval.parsers.unsigned_numbers import unsigned_numbers
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import group_means
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record, Rule, Scored

LOW = tuple(
    f"{what}_prediction_{between}{views}"
    for what in ("depth", "distance")
    for between in ("oc", "oo")
    for views in ("", "_mv")
)
"""Tasks answered by a number."""

VIEW_CHANGE = "view_change_infer"
MIDDLE = (VIEW_CHANGE, "position_matching", "camera_motion_infer")
HIGH = (
    *(f"obj_spatial_relation_{each}" for each in ("oo", "oc_mv", "oo_mv")),
    *(f"spatial_imagination_{each}" for each in ("oc", "oo", "oc_mv", "oo_mv")),
    *(f"distance_infer_center_{each}" for each in ("oo", "oo_mv")),
)
_CHOICE = frozenset({*MIDDLE, *HIGH} - {VIEW_CHANGE})
_LETTERS = dict.fromkeys("ABCD", "")
_WITH_BOXES = ("position_matching", "camera_motion_infer")
_BOXES = (
    "The values represent the bounding box coordinates normalized to a 0-1000 scale, "
    "with the top-left corner as the origin of the image."
)


class _ByKind:
    """Grades by what a task asks for."""

    def grade(self, record: Record, reply: str) -> Graded:
        task, answer = str(record["task"]), str(record["answer"])
        if task == VIEW_CHANGE:
            return self.view_change(reply, answer)
        if task in LOW:
            return self.number(reply, answer, task.endswith("_mv"))
        if task in _CHOICE:
            return self.choice(reply, answer)
        return Graded(None, None, f"ValueError: unknown task {task}")

    def choice(self, reply: str, answer: str) -> Graded:
        """For the tasks with options."""
        said, truth = reply.lower(), answer.lower()
        right = said in truth or said[0] == truth  # what is empty is in every answer
        return Graded(float(right), reply.strip() or None)

    def number(self, reply: str, answer: str, several_views: bool) -> Graded:
        """For the tasks of :data:`LOW`."""
        truth = to_float(answer)
        try:
            numbers = unsigned_numbers(reply)
            said = float((numbers or [-1])[-1] if several_views else numbers[0])
        except (IndexError, ValueError, OverflowError):  # none, or beyond what Python reads
            return Graded(0.0, None)
        score = 0.0 if truth is None else guarded_accuracy(said, truth)
        return Graded(score, str(said) if numbers else None)

    def view_change(self, reply: str, answer: str) -> Graded:
        """For :data:`VIEW_CHANGE`: each axis is normalised by what the model says, not by the true value."""
        try:
            said, truth = along_axes(exact_moves(reply)), along_axes(exact_moves(answer))
        except ValueError:
            return Graded(0.0, None)
        return Graded(_mean_of(map(guarded_accuracy, truth, said)), _written(said))


class Official(_ByKind):
    """``lmms_eval/tasks/sparbench/utils.py`` of SPAR, faults included."""

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Task scores, ``overall``, ``Low``, ``Middle``, ``High`` (0 to 1); ``sparbench_score`` is in percent.

        ``Middle`` leaves the view change out: the code cuts its name wrongly.
        """
        return _sums(rows, [task for task in MIDDLE if task != VIEW_CHANGE])


class LmmsEval(_ByKind):
    """``tasks/sparbench`` of lmms-eval 0.7.3 with the import that it lacks: as it is, every number scores 0."""

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Its metrics (0 to 1); ``sparbench_score`` is in percent."""
        found = _sums(rows, [task for task in MIDDLE if task != VIEW_CHANGE])
        found.pop("overall", None)
        return {
            name.lower() if name in ("Low", "Middle", "High") else name.partition("_MRA")[0]: value
            for name, value in found.items()
        }


class VlmEvalKit(_ByKind):
    """``SparBench`` of VLMEvalKit, without a judge."""

    def choice(self, reply: str, answer: str) -> Graded:
        said = easi_choice(reply)
        return Graded(float(said == easi_choice(answer)), said)

    def number(self, reply: str, answer: str, several_views: bool) -> Graded:
        said, truth = vlmevalkit_spatial.number(reply), to_float(answer)
        if said is None or truth is None or math.isnan(truth):
            return Graded(0.0, None if said is None else str(said))
        return Graded(guarded_accuracy(said, truth), str(said))

    def view_change(self, reply: str, answer: str) -> Graded:
        return _moved(reply, answer, trimmed_moves)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """As the official ones, but ``Middle`` has all its three tasks, and there is no percentage."""
        found = _sums(rows, MIDDLE)
        found.pop("sparbench_score", None)
        return found


class Saner(VlmEvalKit):
    """What a person would take the reply for: the letter, the number, or the moves wherever they stand."""

    def choice(self, reply: str, answer: str) -> Graded:
        said, truth = plain_choice(reply, _LETTERS), plain_choice(answer, _LETTERS)
        return Graded(float(said is not None and said == truth), said)

    def number(self, reply: str, answer: str, several_views: bool) -> Graded:
        said, truth = plain_number(reply), to_float(answer)
        if said is None or truth is None:
            return Graded(0.0, None)
        return Graded(guarded_accuracy(said, truth), str(said))

    def view_change(self, reply: str, answer: str) -> Graded:
        if not found_moves(reply):
            return Graded(0.0, None)
        return _moved(reply, answer, found_moves)


class SparBench(PublishedBenchmark):
    """arXiv 2503.22976."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "lmms_eval": LmmsEval(),
        "vlmevalkit": VlmEvalKit(),
        "saner": Saner(),
    }

    @cached_property
    def records(self) -> list[tuple[str, Record]]:
        """As in the base class; where ids repeat between tasks, the task is put before them."""
        found = super().records
        repeated = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
        if not repeated:
            return found
        return [(f"{self.task(record)}-{name}", record) for name, record in found]

    def task(self, record: Record) -> str:
        return str(record["task"])

    def media(self, record: Record) -> Media:
        held = record["image"]
        pictures = tuple(held) if isinstance(held, list | tuple) else (held,)
        return Media(key=_digest(pictures), pictures=pictures)

    def answer(self, record: Record) -> str:
        return str(record["answer"])

    def options(self, record: Record) -> tuple[str, ...]:
        """Letters that the question lists."""
        if self.task(record) not in _CHOICE:
            return ()
        listed = re.findall(r"(?<!\w)([A-D])[.:)]", str(record["question"]))
        return tuple(dict.fromkeys(listed)) or tuple("ABCD")

    def prompt(self, record: Record) -> str:
        task, question = self.task(record), str(record["question"])
        if task in LOW:
            return f"\n{question}\nPlease answer the question using a single word or phrase."
        if task not in _CHOICE:
            return f"\n{question}\n\n"
        note = _BOXES if task in _WITH_BOXES else ""
        ask = "Answer with the option's letter from the given choices directly."
        return f"\n{question}\n{note}\n{ask}"


def _moved(reply: str, answer: str, read: Callable[[str], Mapping[str, float]]) -> Graded:
    said, truth = along_axes(read(reply)), along_axes(read(answer))
    return Graded(_mean_of(map(guarded_accuracy, said, truth)), _written(said))


def _mean_of(scores: Any) -> float:
    values = list(scores)
    return sum(values) / len(values)


def _written(moves: Sequence[float]) -> str:
    return ",".join(f"{move:g}" for move in moves)


def _metric(task: str) -> str:
    if task == VIEW_CHANGE:
        return "vci_metric"
    return "MRA:.5:.95:.05" if task in LOW else "accuracy"


def _sums(rows: Sequence[Scored], middle: Sequence[str]) -> dict[str, float]:
    tasks = group_means(rows, lambda record: (str(record["task"]),))
    found = {f"{task}_{_metric(task)}": value for task, value in tasks.items()}
    if not tasks:
        return found
    found["overall"] = _mean_of(tasks.values())
    for name, group in (("Low", LOW), ("Middle", middle), ("High", HIGH)):
        part = [value for task, value in tasks.items() if task in group]
        if part:
            found[name] = _mean_of(part)
    return {**found, "sparbench_score": 100 * found["overall"]}


def _digest(pictures: Sequence[Any]) -> str:
    """The same for the same pictures: ids of this data are not known to be unique."""
    found = hashlib.blake2b(digest_size=12)
    for picture in pictures:
        held = picture
        if isinstance(picture, Mapping):
            held = picture.get("bytes") or picture.get("path")
        found.update(held if isinstance(held, bytes) else str(held).encode())
        found.update(b"\0")
    return found.hexdigest()
