"""STI-Bench: distances, speeds, poses and trajectories in videos, as choices among five."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.parsers.option_phrases import option_phrase
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import EasiChoice, SanerChoice, group_means
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record, Rule, Scored


def options_of(record: Record) -> dict[str, str]:
    """Letter -> text of ``Candidates``, a mapping or one stored as JSON; none where that is broken."""
    options = record.get("Candidates") or {}
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError:
            return {}
    return {str(letter): str(text) for letter, text in options.items()}


def scene_of(record: Record) -> str:
    """``indoor``, ``desktop`` or ``outdoor``: as the record says, else from the video's name."""
    said = record.get("scene") or record.get("Scene")
    if isinstance(said, str):
        return said
    name = str(record.get("Video"))
    if "camera" in name:
        return "outdoor"
    if name.startswith("scene"):
        return "indoor"
    stem = name.split(".")[0]
    return "desktop" if stem.isdigit() and len(stem) == 6 else "unknown"


def _truth(record: Record) -> str:
    return str(record["Answer"])


class Official:
    """``opensource_test.py`` of STI-Bench@43ddebe."""

    def grade(self, record: Record, reply: str) -> Graded:
        said = option_phrase(reply)
        if not said:  # it looks at the last character of nothing
            return Graded(None, None, "IndexError: string index out of range")
        last = said[-1]
        right = last in "ABCDE" and last == record.get("Answer")
        return Graded(float(right), last if last in "ABCDE" else None)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``Overall accuracy``, and that of every task and scene (0 to 1)."""
        return group_means(rows, _names)


def _names(record: Record) -> tuple[str, str, str]:
    return (
        "Overall accuracy",
        f"Accuracy by task: {record['Task']}",
        f"Accuracy by scene: {scene_of(record)}",
    )


class StiBench(PublishedBenchmark):
    """arXiv 2503.23765.

    ``time_start`` and ``time_end`` stand in the question; the views are of the whole video, as in the official
    script and in VLMEvalKit.
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        "official": Official(),
        "vlmevalkit": EasiChoice(_truth, lambda record: (str(record["Task"]),)),
        "saner": SanerChoice(_truth, options_of, lambda record: (str(record["Task"]),)),
    }

    def task(self, record: Record) -> str:
        return str(record["Task"])

    def media(self, record: Record) -> Media:
        return Media(key=str(record["Video"]), video=f"video/{record['Video']}")

    def answer(self, record: Record) -> str:
        return _truth(record)

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(options_of(record))

    def prompt(self, record: Record) -> str:
        options = "\n".join(f"({letter}) {text}" for letter, text in options_of(record).items())
        asked = f"From {record['time_start']} s to {record['time_end']} s. {record['Question']}"
        return f"{asked}\n{options}\nPlease output only the option letter!"
