"""VSI-Bench: videos of indoor scenes, eight tasks, choices and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.means import means_by
from spatialprior.eval.metrics.relative_accuracy import mean_relative_accuracy, share_of_tolerances
from spatialprior.eval.parsers import vlmevalkit_spatial
from spatialprior.eval.parsers.first_number import first_number
from spatialprior.eval.parsers.first_word import first_word, to_float
from spatialprior.eval.parsers.meant import meant_letter, meant_number
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.crash import crashed
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record, Rule, Scored

NUMERIC = (
    "object_abs_distance",
    "object_counting",
    "object_size_estimation",
    "room_size_estimation",
)
CHOICE = (
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "object_rel_distance",
    "route_planning",
    "obj_appearance_order",
)
_DIRECTION = "object_rel_direction"


class Official:
    """``lmms_eval/tasks/vsibench/utils.py`` of thinking-in-space.

    It stops with an error, here no score: at a true number of 0 when the reply is a number, and at a question
    of a type that it does not know.
    """

    def grade(self, record: Record, reply: str) -> Graded:
        parsed = None
        try:
            if _is_numeric(record):
                number = self.number(reply)
                parsed = None if number is None else f"{number:g}"
                truth = _number(record["ground_truth"])
                if number is None or truth is None:
                    return Graded(0.0, parsed)
                return Graded(mean_relative_accuracy(number, truth), parsed)
            said = first_word(reply).lower()
            parsed = said.upper() if len(said) == 1 and said in "abcdef" else None
            return Graded(float(said == record["ground_truth"].lower()), parsed)
        except (
            KeyError,
            ValueError,
            AttributeError,
            ZeroDivisionError,
            OverflowError,
        ) as error:
            return crashed(error, parsed)

    def number(self, reply: str) -> float | None:
        """The number that a reply is taken for."""
        return to_float(first_word(reply))

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Its eight task scores, the directions' the mean of three, and ``overall``, their mean (0 to 1)."""
        return task_scores(rows)


class LmmsEval(Official):
    """``tasks/vsibench/utils.py`` of lmms-eval 0.7.3: the first number anywhere, in digits or words."""

    def number(self, reply: str) -> float | None:
        return first_number(reply)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """As the official rule, under its own names, rounded to six digits (0 to 1)."""
        theirs = {
            "overall": "vsibench_overall",
            **{f"{task}_{_metric(task)}": f"{task}_mra" for task in NUMERIC},
        }
        return {theirs.get(k, k): round(v, 6) for k, v in task_scores(rows).items()}


class VlmEvalKit:
    """``dataset/vsibench.py`` of VLMEvalKit as EASI runs it without a judge; ``overall`` is 0 to 100."""

    def grade(self, record: Record, reply: str) -> Graded:
        try:
            numeric, truth = _is_numeric(record), record["ground_truth"]
        except (KeyError, ValueError) as error:
            return crashed(error)
        if not numeric:
            letter = vlmevalkit_spatial.option(reply)
            right = vlmevalkit_spatial.option(str(truth).strip())
            return Graded(float(letter == right), letter)  # two misses are equal there, too
        said, number = vlmevalkit_spatial.number(reply), _number(truth)
        parsed = None if said is None else f"{said:g}"
        if said is None or number is None:
            return Graded(0.0, parsed)
        off = abs((said - number) / number) if number else abs(said)
        return Graded(share_of_tolerances(off), parsed)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        return {name: 100 * value for name, value in task_scores(rows).items()}


class Saner(Official):
    """Our reading of a reply (``parsers/meant.py``); official sums. A true 0 is met by 0."""

    def grade(self, record: Record, reply: str) -> Graded:
        try:
            if _is_numeric(record):
                if _number(record["ground_truth"]) == 0:
                    said = self.number(reply)
                    return Graded(float(said == 0), None if said is None else f"{said:g}")
                return super().grade(record, reply)
            letter = meant_letter(reply, record.get("options") or "ABCDEF")
            return Graded(float(letter == record["ground_truth"].strip().upper()), letter)
        except (KeyError, ValueError, AttributeError) as error:
            return crashed(error)

    def number(self, reply: str) -> float | None:
        return meant_number(reply)


class VsiBench(PublishedBenchmark):
    """arXiv 2412.14171."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "lmms_eval": LmmsEval(),
        "vlmevalkit": VlmEvalKit(),
        "saner": Saner(),
    }

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
        listed = record["options"]
        return () if listed is None else tuple(listed)

    def prompt(self, record: Record) -> str:
        official = self.protocol_spec.prompt == "official"
        lines = ["These are frames of a video.", str(record["question"])]
        if self.task(record) in NUMERIC:
            ask = (
                "Please answer the question using a single word or phrase."
                if official
                else "Answer briefly and directly in one float number."
            )
            return "\n".join([*lines, ask])
        ask = "Answer with the option's letter from the given choices directly."
        return "\n".join([*lines, *(["Options:"] if official else []), *self.options(record), ask])


def task_scores(rows: Sequence[Scored]) -> dict[str, float]:
    """``TASK_METRIC`` -> mean, the directions' the unweighted mean of their variants; ``overall``, 0 to 1.

    The official code needs all three variants of the directions and stops without; with only some of them (a
    run of chosen tasks) it is the mean of these here, and without any there is no such row.
    """
    means = means_by(rows, lambda record: str(record["question_type"]))
    variants = [means.pop(task) for task in CHOICE if task.startswith(_DIRECTION) and task in means]
    found = {f"{task}_{_metric(task)}": value for task, value in means.items()}
    if variants:
        found[f"{_DIRECTION}_accuracy"] = sum(variants) / len(variants)
    found["overall"] = sum(found.values()) / len(found) if found else 0.0
    return found


def _metric(task: str) -> str:
    return "MRA:.5:.95:.05" if task in NUMERIC else "accuracy"


def _is_numeric(record: Record) -> bool:
    kind = record["question_type"]
    if kind not in NUMERIC and kind not in CHOICE:
        raise ValueError(f"Unknown question type: {kind}")
    return kind in NUMERIC


def _number(truth: object) -> float | None:
    """The true number; ``None`` where it is none, which the official code counts as a wrong reply."""
    return to_float(truth) if isinstance(truth, str | int | float) else None
