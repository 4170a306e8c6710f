"""ViewSpatial-Bench: directions seen by the camera, and by a person in the picture."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.means import group_means
from spatialprior.eval.parsers.lone_letter import lone_letter, lone_letter_of_last_line
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import EasiChoice, SanerChoice
from spatialprior.eval.published.crash import crashed
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record, Rule, Scored

TYPES = (
    "Camera perspective - Relative Direction",
    "Camera perspective - Object View Orientation",
    "Person perspective - Relative Direction",
    "Person perspective - Object View Orientation",
    "Person perspective - Scene Simulation Relative Direction",
)
_ASK = "Reply only to the corresponding option.\nAnswer:"
_OPTION = re.compile(r"^\s*([A-Z])[.:)]\s*(.*?)\s*$", re.MULTILINE)


def options_of(record: Record) -> dict[str, str]:
    """Letter -> text, from lines ``A. text`` or a list of them."""
    choices = record.get("choices") or ""
    if isinstance(choices, str) and choices.startswith("["):
        choices = json.loads(choices)
    text = choices if isinstance(choices, str) else "\n".join(map(str, choices))
    return dict(_OPTION.findall(text))


def _truth(record: Record) -> str:
    return str(record["answer"])


def _kind(record: Record) -> tuple[str]:
    return (str(record["question_type"]),)


@dataclass(frozen=True)
class Official:
    """``evaluate.py`` of ViewSpatial-Bench@2e85a5e; the same in ``tasks/viewspatial`` of lmms-eval 0.7.3.

    Attributes:
        overall: Name of the mean over items.
        name: Type of question -> name of its mean.
        always: Names that are there in any case.
    """

    overall: str
    name: Callable[[str], str]
    always: tuple[str, ...] = ()

    def grade(self, record: Record, reply: str) -> Graded:
        said = lone_letter_of_last_line(reply)
        try:
            return Graded(float(said == lone_letter(record["answer"])), said)
        except (KeyError, TypeError) as error:
            return crashed(error, said)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """The mean over items and the mean of every type (0 to 1)."""
        found = group_means(
            rows, lambda record: (self.overall, *(self.name(kind) for kind in _kind(record)))
        )
        return {**dict.fromkeys(self.always, 0.0), **found}


def _lmms_name(kind: str) -> str:
    return f"{kind.lower().replace(' - ', '_').replace(' ', '_')}_accuracy"


class ViewSpatial(PublishedBenchmark):
    """arXiv 2505.21500."""

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official("overall_accuracy", str),
        "lmms_eval": Official(
            "overall_accuracy", _lmms_name, tuple(_lmms_name(kind) for kind in TYPES)
        ),
        "vlmevalkit": EasiChoice(_truth, _kind),
        "saner": SanerChoice(lambda record: lone_letter(_truth(record)) or "", options_of, _kind),
    }

    def task(self, record: Record) -> str:
        return str(record["question_type"])

    def media(self, record: Record) -> Media:
        paths = record["image_path"]
        names = json.loads(paths) if isinstance(paths, str) and paths.startswith("[") else paths
        found = tuple(self._below(name) for name in ([names] if isinstance(names, str) else names))
        return Media(key="|".join(found), pictures=found)

    def _below(self, path: str) -> str:
        """The records name the folder that the hub's files lie in, which may be ``eval.root`` itself."""
        inner = path.removeprefix("ViewSpatial-Bench/")
        return inner if (Path(self.config.root) / inner).exists() else path

    def scene(self, record: Record) -> str:
        """The scan's folder for ScanNet, the picture itself for COCO."""
        first = self.media(record).key.split("|")[0]
        return first.split("/original_images/")[0] if "/original_images/" in first else first

    def answer(self, record: Record) -> str:
        return _truth(record)

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(f"{letter}. {text}" for letter, text in options_of(record).items())

    def prompt(self, record: Record) -> str:
        question, choices = record["question"], record["choices"]
        if self.protocol_spec.prompt == "joined":
            return f"{question}{choices}\n{_ASK}"
        return f"Question: {question}\nChoices: {choices}\n{_ASK}"
