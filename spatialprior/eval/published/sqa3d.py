"""SQA3D: questions that an agent asks from where it stands in a ScanNet scene, short free answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.means import mean, means_by
from spatialprior.eval.parsers.clean_answer import clean_answer
from spatialprior.eval.published.crash import crashed
from spatialprior.eval.published.rule import Record, Rule, Scored
from spatialprior.eval.published.scannet_questions import ScanNetQuestions, expected

KINDS = ("what", "is", "how", "can", "which")


class Official:
    """``llava/eval/eval_sqa3d.py`` of Video-3D-LLM (the same in VEGA-3D): equal once both sides are cleaned."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = clean_answer(reply)
        try:
            return Graded(float(said == clean_answer(expected(record))), said)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            return crashed(error, said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``all``, over items, and one value for each first word of a question that occurs (0 to 100)."""
        found = {"all": mean(rows), **means_by(rows, question_type)}
        return {name: 100 * value for name, value in found.items()}


class Sqa3d(ScanNetQuestions):
    """arXiv 2210.07474."""

    rules: ClassVar[Mapping[str, Rule]] = {"official": Official()}

    def task(self, record: Record) -> str:
        return question_type(record)


def question_type(record: Record) -> str:
    """As the record says, itself or under ``metadata``; otherwise by its question's first letters."""
    said = record.get("question_type", (record.get("metadata") or {}).get("question_type"))
    if said is not None:
        return str(said)
    question = str(record.get("question", "")).lstrip().lower()
    return next((kind for kind in KINDS if question.startswith(kind)), "others")
