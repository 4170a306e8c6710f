"""ScanQA: questions about ScanNet scenes, free answers, several of which count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.means import mean
from spatialprior.eval.metrics.text_metrics import missing, text_metrics
from spatialprior.eval.published.crash import crashed
from spatialprior.eval.published.rule import Record, Rule, Scored
from spatialprior.eval.published.scannet_questions import ScanNetQuestions, accepted


class Official:
    """``llava/eval/eval_scanqa.py`` of Video-3D-LLM (the same in VEGA-3D).

    A reply scores 1 where it is, letter by letter, one of the answers: nothing is cleaned.
    """

    def grade(self, record: Record, reply: str) -> Graded:
        try:
            return Graded(float(reply in accepted(record)), reply)
        except (KeyError, IndexError, TypeError) as error:
            return crashed(error, reply)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``EM`` (0 to 1), and CIDEr, BLEU, METEOR and ROUGE (times 100), full stops at a reply's end aside.

        Text metrics are left out where ``spatialprior[text-metrics]`` is not installed, METEOR without Java:
        :meth:`notes` says so.
        """
        pairs = [
            (row.reply.rstrip("."), [str(answer) for answer in accepted(row.record)])
            for row in rows
            if row.score is not None
        ]
        return {
            "EM": mean(rows),
            **{name: 100 * value for name, value in text_metrics(pairs).items()},
        }

    def notes(self) -> list[str]:
        """What its sums lack on this machine, a sentence each."""
        return missing()


class ScanQa(ScanNetQuestions):
    """arXiv 2112.10482."""

    resamples: ClassVar[bool] = False  # text metrics take seconds, METEOR minutes
    rules: ClassVar[Mapping[str, Rule]] = {"official": Official()}

    def task(self, record: Record) -> str:
        return "scanqa"

    def deviations(self) -> list[str]:
        return [*super().deviations(), *missing()]
