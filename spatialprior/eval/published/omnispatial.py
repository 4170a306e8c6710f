"""OmniSpatial: single pictures, ten kinds of spatial reasoning, two to four options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.parsers.answer_line import (
    answer_line,
    first_character,
    json_answer_letter,
    without_thought,
)
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import EasiChoice, SanerChoice, group_means
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.omnispatial_prompts import prefix
from spatialprior.eval.published.rule import Record, Rule, Scored

SUB_TASKS = {
    "Dynamic_Reasoning": ("Manipulation", "Motion_Analysis"),
    "Spatial_Interaction": ("Traffic_Analysis", "Localization", "Geospatial_Strategy"),
    "Complex_Logic": ("Pattern_Recognition", "Geometric_Reasoning"),
    "Perspective_Taking": ("Egocentric", "Allocentric", "Hypothetical"),
}


def options_of(record: Record) -> dict[str, str]:
    """Letter -> text, also where the options were stored as JSON."""
    options = record["options"]
    texts = json.loads(options) if isinstance(options, str) else options
    return {chr(65 + i): str(text) for i, text in enumerate(texts)}


def _truth(record: Record) -> str:
    return chr(65 + int(record["answer"]))


def _groups(record: Record) -> tuple[str, str]:
    return str(record["task_type"]), str(record["sub_task_type"])


@dataclass(frozen=True)
class Official:
    """``vlms_eval/qwenvl_eval.py`` of OmniSpatial@208bac2.

    Attributes:
        read: Reply -> letter, of one ``eval_type``; where it finds none, A is scored.
    """

    read: Callable[[str], str | None]

    def grade(self, record: Record, reply: str) -> Graded:
        said = self.read(reply)
        try:
            truth = chr(65 + record["answer"])
        except (TypeError, ValueError) as error:
            return Graded(None, said, f"{type(error).__name__}: {error}")
        return Graded(float(("A" if said is None else said) == truth), said or None)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``Overall``, tasks and sub-tasks in percent of N + 1e-6; 0 where none was asked."""
        names = ("Overall", *(each for task in SUB_TASKS.items() for each in (task[0], *task[1])))
        counts = dict.fromkeys(names, 0)
        sums = dict.fromkeys(names, 0.0)
        for row in rows:
            for name in ("Overall", *_groups(row.record)):
                counts[name] = counts.get(name, 0) + 1
                sums[name] = sums.get(name, 0.0) + (row.score or 0.0)
        return {name: sums[name] / (counts[name] + 1e-6) * 100 for name in counts}


class LmmsEval(Official):
    """``tasks/omnispatial`` of lmms-eval 0.7.3: the official parser, plain means."""

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``omnispatial`` and ``omnispatial_SUBTASK`` (0 to 1)."""
        return group_means(rows, _lmms_names)


class LmmsEvalDirect:
    """``tasks/omni_spatial`` of lmms-eval 0.7.3: the first character behind a thought or within tags."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = first_character(without_thought(reply))
        return Graded(float(said == _truth(record)), said or None)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``omni_spatial_score`` and the four tasks (0 to 1)."""
        found = group_means(rows, lambda record: ("omni_spatial_score", _groups(record)[0].lower()))
        return {**dict.fromkeys((task.lower() for task in SUB_TASKS), 0.0), **found}


def _lmms_names(record: Record) -> tuple[str, str]:
    return "omnispatial", f"omnispatial_{record['sub_task_type']}".lower()


class OmniSpatial(PublishedBenchmark):
    """arXiv 2506.03135."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(answer_line),
        "official_direct": Official(first_character),
        "official_json": Official(json_answer_letter),
        "lmms_eval": LmmsEval(answer_line),
        "lmms_eval_direct": LmmsEvalDirect(),
        "vlmevalkit": EasiChoice(
            _truth,
            lambda record: (
                f"task_type.{record['task_type']}",
                f"sub_task_type.{record['sub_task_type']}",
            ),
        ),
        "saner": SanerChoice(_truth, options_of, _groups),
    }

    @dataclass
    class Config(PublishedBenchmark.Config):
        """What a recipe may set.

        Attributes:
            prompts: A checkout of qizekun/OmniSpatial, to read its prompts from in place of lmms-eval.
        """

        prompts: str | None = None

    config: Config

    @cached_property
    def records(self) -> list[tuple[str, Record]]:
        """Id and record; the task stands before the id where several tasks use the same ids."""
        named = super().records
        if len({name for name, _ in named}) == len(named):
            return named
        return [(f"{record['task_type']}/{name}", record) for name, record in named]

    def task(self, record: Record) -> str:
        return str(record["sub_task_type"])

    def media(self, record: Record) -> Media:
        picture = f"{record['task_type']}/{str(record['id']).split('_')[0]}.png"
        return Media(key=picture, pictures=(picture,))

    def answer(self, record: Record) -> str:
        return _truth(record)

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(options_of(record))

    def prompt(self, record: Record) -> str:
        options = [f"\n{letter}. {text}" for letter, text in options_of(record).items()]
        return "".join((self._before, str(record["question"]), *options))

    @cached_property
    def _before(self) -> str:
        return prefix(self.protocol_spec.prompt, self.config.prompts)
