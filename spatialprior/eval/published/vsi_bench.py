"""VSI-Bench: videos of indoor scenes, eight tasks, choices and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.relative_accuracy import mean_relative_accuracy
from spatialprior.eval.parsers.first_word import first_word, to_float
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record, Rule, Scored

NUMERIC = (
    "object_abs_distance",
    "object_counting",
    "object_size_estimation",
    "room_size_estimation",
)
_DIRECTIONS = ("easy", "medium", "hard")


class Official:
    """``lmms_eval/tasks/vsibench/utils.py`` of thinking-in-space."""

    def grade(self, record: Record, reply: str) -> Graded:
        said, truth = first_word(reply), str(record["ground_truth"])
        if record["question_type"] not in NUMERIC:
            letter = said.upper() if said.upper() in "ABCDEF" and said else None
            return Graded(float(said.lower() == truth.lower()), letter)
        number = to_float(said)
        if number is None:
            return Graded(0.0, None)
        try:
            return Graded(mean_relative_accuracy(number, float(truth)), said)
        except ZeroDivisionError as error:
            return Graded(None, said, f"{type(error).__name__}: {error}")

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Its eight task scores, the directions' the mean of three, and ``overall``, their mean (0 to 1)."""
        by_task: dict[str, list[float]] = {}
        for row in rows:
            by_task.setdefault(row.record["question_type"], []).append(row.score or 0.0)
        means = {task: sum(scores) / len(scores) for task, scores in by_task.items()}
        directions = [means.pop(f"object_rel_direction_{each}", 0.0) for each in _DIRECTIONS]
        found = {f"{task}_{_metric(task)}": mean for task, mean in means.items()}
        found["object_rel_direction_accuracy"] = sum(directions) / 3
        found["overall"] = sum(found.values()) / len(found)
        return found


class VsiBench(PublishedBenchmark):
    """arXiv 2412.14171."""

    rules: ClassVar[Mapping[str, Rule]] = {"official": Official()}

    def task(self, record: Record) -> str:
        return str(record["question_type"])

    def media(self, record: Record) -> Media:
        scene = self.scene(record)
        return Media(key=scene, video=f"{scene}.mp4")

    def scene(self, record: Record) -> str:
        return f"{record['dataset']}/{record['scene_name']}"

    def answer(self, record: Record) -> str:
        return str(record["ground_truth"])

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(record["options"] or ())

    def prompt(self, record: Record) -> str:
        lines = ["These are frames of a video.", str(record["question"])]
        if self.task(record) in NUMERIC:
            return "\n".join([*lines, "Please answer the question using a single word or phrase."])
        ask = "Answer with the option's letter from the given choices directly."
        return "\n".join([*lines, "Options:", *record["options"], ask])


def _metric(task: str) -> str:
    return "MRA:.5:.95:.05" if task in NUMERIC else "accuracy"
