"""MMSI-Bench: questions over several pictures, eleven types, four options inside the question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.parsers.quoted_letter import quoted_letter, quoted_letter_any_case
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import EasiChoice, SanerChoice, group_means
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record, Rule, Scored

LETTERS = "ABCD"
_SHORT = {"Positional Relationship": "Pos", "Motion": "Motion", "Attribute": "Attr"}
_ASK = (
    "Answer with the option's letter from the given choices directly. "
    "Enclose the option's letter within ``."
)


class Official:
    """``vlmeval/dataset/mmsi_bench.py`` of MMSI-Bench, for models without its LLM extraction."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = quoted_letter(reply)
        return Graded(float(said is not None and said.lower() == _truth(record)), said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``overall``, the mean over questions, and question types (0 to 1)."""
        return group_means(rows, lambda record: ("overall", question_type(record)))


class LmmsEval:
    """``tasks/mmsi_bench`` of lmms-eval 0.7.3."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = quoted_letter_any_case(reply)
        return Graded(float(said is not None and said.lower() == _truth(record)), said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``average``, the mean over questions, and question types (0 to 1)."""
        return group_means(rows, lambda record: ("average", question_type(record)))


class MmsiBench(PublishedBenchmark):
    """arXiv 2505.23764."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "lmms_eval": LmmsEval(),
        "vlmevalkit": EasiChoice(lambda r: str(r["answer"]), lambda r: (_category(r),)),
        "saner": SanerChoice(
            lambda r: _truth(r).upper(),
            lambda r: dict.fromkeys(LETTERS, ""),
            lambda r: (question_type(r),),
        ),
    }

    def task(self, record: Record) -> str:
        return question_type(record)

    def media(self, record: Record) -> Media:
        return Media(key=str(record["id"]), pictures=tuple(record["images"]))

    def answer(self, record: Record) -> str:
        return str(record["answer"])

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(LETTERS)

    def prompt(self, record: Record) -> str:
        question = str(record["question"])
        if self.protocol_spec.prompt == "lmms_eval":
            return f"{question.strip()}\n{_ASK}"
        if self.protocol_spec.prompt == "vlmevalkit":
            return f"{question.rstrip().removesuffix(',')}, \n{_ASK}"
        return f"{question}\n{_ASK}"


def question_type(record: Record) -> str:
    """With the en dash that the data has; some copies have a hyphen there."""
    return re.sub(r"(?<=\.)-(?=\w+\.\))", "–", str(record["question_type"]))


def _category(record: Record) -> str:
    """As VLMEvalKit's table calls it: ``Positional Relationship (Cam.–Obj.)`` is Pos-Cam-Obj."""
    kind, _, parts = question_type(record).rstrip(")").partition(" (")
    named = [part.rstrip(".") for part in parts.split("–") if part]
    return "-".join([_SHORT.get(kind, kind), *named])


def _truth(record: Record) -> str:
    return str(record["answer"]).lower().replace("\n", " ").strip()
