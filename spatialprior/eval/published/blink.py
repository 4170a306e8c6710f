"""BLINK: fourteen sub-tasks of perception, three of them about space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.parsers.bracketed_letter import LETTERS, bracketed_letter
from spatialprior.eval.parsers.plain_choice import plain_choice
from spatialprior.eval.parsers.stated_letter import stated_letter
from spatialprior.eval.parsers.vlmevalkit_choice import vlmevalkit_choice
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import group_means
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.prompt_texts import (
    PromptError,
    checkout_file,
    constant,
    string_constants,
)
from spatialprior.eval.published.rule import Record, Rule, Scored
from spatialprior.eval.published.vlmevalkit_prompt import LABELS, choice_prompt

SPATIAL = ("Spatial_Relation", "Relative_Depth", "Multi-view_Reasoning")
"""The sub-tasks of GASP's table."""

_WITH_DISCLAIMER = ("Art_Style", "Forensic_Detection", "Jigsaw")
_DISCLAIMER = "eval/test_benchmark.py"
_REPOSITORY = "github.com/zeyofu/BLINK_Benchmark"


class Official:
    """``eval/test_benchmark.py`` and ``eval/evaluate.py`` of BLINK_Benchmark, without its GPT-3.5."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = bracketed_letter(reply, len(record["choices"]))
        if said is not None:
            return Graded(float(said == record["answer"]), said)
        if len(record["choices"]) > len(LETTERS):
            return Graded(0.0, None)  # it fails before it asks, and says nothing
        return Graded(None, None, "judge")

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Sub-tasks and ``Total``, their unweighted mean (0 to 1); what a judge would read counts as wrong."""
        found = group_means(rows, lambda record: (sub_task(record),))
        return {**found, "Total": _unweighted(found)}


class LmmsEval:
    """``tasks/blink`` of lmms-eval 0.7.3."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = stated_letter(reply, LABELS[: len(record["choices"] or ())] or LABELS)
        return Graded(float((said or "") == str(record["answer"]).strip("()")), said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``blink_acc`` of its tasks and of the group ``blink``, their unweighted mean (0 to 1)."""
        found = group_means(rows, lambda r: (f"blink_{sub_task(r).lower().replace('-', '_')}",))
        return {**found, "blink": _unweighted(found)}


class VlmEvalKit:
    """``BLINK`` of VLMEvalKit, without its judge."""

    def grade(self, record: Record, reply: str) -> Graded:
        options = _lettered(record)
        said = vlmevalkit_choice(reply, options, recent=True)
        if said is None:
            return Graded(None, None, "judge")
        return Graded(float(said == _letter(record)), said if said in options else None)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``Overall``, the mean over questions, and sub-tasks (0 to 1); what a judge would read is wrong."""
        return group_means(rows, lambda record: ("Overall", sub_task(record)))


class Saner(Official):
    """The letter that a person would take the reply for; official sums."""

    def grade(self, record: Record, reply: str) -> Graded:
        options = {letter: str(text) for letter, text in _lettered(record).items()}
        said = plain_choice(reply, options)
        return Graded(float(said == _letter(record)), said)


class Blink(PublishedBenchmark):
    """arXiv 2404.12390."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "lmms_eval": LmmsEval(),
        "vlmevalkit": VlmEvalKit(),
        "saner": Saner(),
    }

    @dataclass
    class Config(PublishedBenchmark.Config):
        """What a recipe may set.

        Attributes:
            prompts: Checkout of github.com/zeyofu/BLINK_Benchmark, which holds the disclaimer that three
                sub-tasks begin with.
            disclaimer: Whether they do; only in the official protocol.
        """

        prompts: str = ""
        disclaimer: bool = True

    config: Blink.Config

    @cached_property
    def records(self) -> list[tuple[str, Record]]:
        """As in the base class; where the disclaimer is asked for, it must be readable."""
        found = super().records
        for _, record in found:
            if self._has_disclaimer(record):
                _ = self._disclaimer
                break
        return found

    def deviations(self) -> list[str]:
        found = super().deviations()
        if self.protocol_spec.prompt == "official" and not self.config.disclaimer:
            found.append(f"no disclaimer before {', '.join(_WITH_DISCLAIMER)}")
        return found

    def task(self, record: Record) -> str:
        return sub_task(record)

    def media(self, record: Record) -> Media:
        names = ("image_1", "image_2", "image_3", "image_4")
        there: list[Any] = [record[name] for name in names if record.get(name)]
        return Media(key=str(record["idx"]), pictures=tuple(there))

    def answer(self, record: Record) -> str:
        return str(record["answer"])

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(f"({letter}) {text}" for letter, text in _lettered(record).items())

    def prompt(self, record: Record) -> str:
        if self.protocol_spec.prompt == "vlmevalkit":
            return choice_prompt(str(record["question"]), _lettered(record))
        text = str(record["prompt"])
        if self.protocol_spec.prompt == "lmms_eval":
            letters = ", ".join(_lettered(record))
            ask = f"Note: You only need to respond with {letters} without providing any additional"
            return f"{ask} information.\n{text}"
        return self._disclaimer + text if self._has_disclaimer(record) else text

    def _has_disclaimer(self, record: Record) -> bool:
        asked = self.protocol_spec.prompt == "official" and self.config.disclaimer
        return asked and sub_task(record) in _WITH_DISCLAIMER

    @cached_property
    def _disclaimer(self) -> str:
        if not self.config.prompts:
            raise PromptError(
                f"blink: {', '.join(_WITH_DISCLAIMER)} begin with a disclaimer that is in {_DISCLAIMER} of "
                f"{_REPOSITORY}: set eval.prompts=CHECKOUT, or eval.disclaimer=false (the score says so), or "
                "choose other eval.tasks"
            )
        path = checkout_file(self.config.prompts, _DISCLAIMER, _REPOSITORY)
        return constant(string_constants(path), "disclaimer", path)


def sub_task(record: Record) -> str:
    """Its ``sub_task``, else the middle of its ``idx``, such as ``val_Relative_Depth_7``."""
    said = record.get("sub_task") or "_".join(str(record["idx"]).split("_")[1:-1])
    return str(said).replace(" ", "_")


def _lettered(record: Record) -> dict[str, Any]:
    return dict(zip(LABELS, record["choices"], strict=False))


def _letter(record: Record) -> str:
    return str(record["answer"]).strip("()")


def _unweighted(means: Mapping[str, float]) -> float:
    return sum(means.values()) / len(means) if means else 0.0
