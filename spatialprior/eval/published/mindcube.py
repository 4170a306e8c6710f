"""MindCube: what is where around a few views of one scene."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.eval.benchmark import Graded
from spatialprior.eval.parsers.ordered_letters import ordered_letters
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import EasiChoice, SanerChoice, group_means
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.prompt_texts import (
    PromptError,
    checkout_file,
    constant,
    string_constants,
)
from spatialprior.eval.published.rule import Record, Rule, Scored

SETTINGS = ("around", "rotation", "translation", "among")
_PLACEHOLDER = "<image>"
_OPTION = re.compile(r"(?:^|\s)([A-E])\. (.*?)(?=\s[A-E]\. |\s*\Z)", re.DOTALL)


def setting(record: Record) -> str:
    """The first of :data:`SETTINGS` that its id contains, in this order; ``other`` without one."""
    name = str(record.get("id") or "").lower()
    return next((each for each in SETTINGS if each in name), "other")


def options_of(record: Record) -> dict[str, str]:
    """Letter -> text of the options that stand at the end of the question."""
    return dict(_OPTION.findall(str(record.get("question") or "")))


def _truth(record: Record) -> str:
    return str(record["gt_answer"])


class Official:
    """``src/evaluation`` of MindCube@6d8fd9a, the basic evaluator."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = ordered_letters(reply)
        if not record.get("gt_answer"):
            return Graded(None, said, "no gt_answer: the official code leaves the item out")
        return Graded(float(said == record["gt_answer"]), said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``gen_cogmap_accuracy`` without translation, and ``SETTING/gen_cogmap_accuracy`` (0 to 1)."""
        rows = [row for row in rows if row.record.get("gt_answer")]
        found = group_means(rows, lambda record: (setting(record),))
        counted = [row for row in rows if setting(row.record) != "translation"]
        overall = group_means(counted, lambda record: ("overall",)).get("overall", 0.0)
        each = {
            f"{name}/gen_cogmap_accuracy": found.get(name, 0.0) for name in (*SETTINGS, "other")
        }
        return {"gen_cogmap_accuracy": overall, **each}


class LmmsEval:
    """``tasks/mindcube`` of lmms-eval 0.7.3: the same parser, the setting from the id's first word."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = ordered_letters(reply.strip())
        return Graded(float(said == record["gt_answer"]), said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """Its four accuracies (0 to 1); nothing is left out of the overall one."""
        found = group_means(rows, lambda record: ("overall", self._kind(record)))
        names = ("overall", "rotation", "among", "around")
        return {f"{name}_accuracy": found.get(name, 0.0) for name in names}

    @staticmethod
    def _kind(record: Record) -> str:
        first = str(record["id"]).split("_", 1)[0]
        return "around" if first == "aroundnew" else first


class MindCube(PublishedBenchmark):
    """arXiv 2506.21458."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "lmms_eval": LmmsEval(),
        "vlmevalkit": EasiChoice(_truth, lambda record: (setting(record),)),
        "saner": SanerChoice(_truth, options_of, lambda record: (setting(record),)),
    }

    @dataclass
    class Config(PublishedBenchmark.Config):
        """What a recipe may set.

        Attributes:
            prompts: A checkout of mll-lab-nu/MindCube, for records without an ``input_prompt``.
        """

        prompts: str | None = None

    config: Config

    def task(self, record: Record) -> str:
        return setting(record)

    def answer(self, record: Record) -> str:
        return _truth(record)

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(options_of(record))

    def media(self, record: Record) -> Media:
        pictures = tuple(record["images"])
        if self._interleaved and (marks := self._asked(record).count(_PLACEHOLDER)):
            # As both harnesses: views without a placeholder are not shown.
            pictures = pictures[:marks]
        names = [picture if isinstance(picture, str) else "" for picture in pictures]
        return Media(key="|".join(names) if all(names) else str(record["id"]), pictures=pictures)

    def scene(self, record: Record) -> str:
        """The folder of its first picture."""
        first = record["images"][0]
        return first.rpartition("/")[0] if isinstance(first, str) else str(record["id"])

    def prompt(self, record: Record) -> str:
        asked = self._asked(record)
        if not self._interleaved:
            return asked
        texts = [text.strip() for text in asked.split(_PLACEHOLDER)]
        shown = min(len(texts) - 1, len(record["images"]))
        marks = [IMAGE_MARK] * shown + [""] * (len(texts) - shown)
        return "".join(text + mark for text, mark in zip(texts, marks, strict=True))

    @property
    def _interleaved(self) -> bool:
        return self.protocol_spec.prompt == "interleaved"

    def _asked(self, record: Record) -> str:
        if record.get("input_prompt"):
            return str(record["input_prompt"])
        return self._template + str(record["question"])

    @cached_property
    def _template(self) -> str:
        """What stands before a question: the official ``raw_qa`` template.

        Raises:
            PromptError: No checkout is named, or it is not MindCube's.
        """
        if self.config.prompts is None:
            raise PromptError(
                "these records of mindcube have no input_prompt; set eval.prompts=FOLDER to a checkout of "
                "mll-lab-nu/MindCube, or use the file that its scripts/generate_prompts.py writes"
            )
        name = "src/prompt_generation/templates.py"
        path = checkout_file(self.config.prompts, name, "mll-lab-nu/MindCube")
        texts = string_constants(path)
        before = constant(texts, "RAW_QA_BACKGROUND_INSTRUCTION", path)
        return f"{before}\n{constant(texts, 'QUESTION_HEADER', path)}"
