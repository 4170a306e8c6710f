"""All-Angles Bench: people and objects seen by several cameras; paired questions tell whether answers agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.pair_consistency import consistency, link, linked_pairs
from spatialprior.eval.parsers.plain_choice import plain_choice
from spatialprior.eval.parsers.vlmevalkit_choice import vlmevalkit_choice
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.choice_rules import group_means
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Record, Rule, Scored
from spatialprior.eval.published.vlmevalkit_prompt import choice_prompt, lettered_options


class Official:
    """The authors' copy of VLMEvalKit, and the paper's consistency of pairs, which that copy lacks."""

    def grade(self, record: Record, reply: str) -> Graded:
        options = lettered_options(record)
        said = vlmevalkit_choice(reply, options)
        if said is None:
            return Graded(None, None, "judge")
        return Graded(float(said == record["answer"]), said if said in options else None)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``Overall`` and category means (0 to 1); CC, WW, IC (percent of pairs) of all and by category.

        A reply that a judge would read counts as wrong, as in the official code without a key.
        """
        found = group_means(rows, lambda record: ("Overall", _category(record)))
        return {**found, **_consistency(rows)}


class Saner(Official):
    """The letter that a person would take the reply for."""

    def grade(self, record: Record, reply: str) -> Graded:
        options = {letter: str(text) for letter, text in lettered_options(record).items()}
        said = plain_choice(reply, options)
        return Graded(float(said == str(record["answer"]).strip()), said)


class AllAngles(PublishedBenchmark):
    """arXiv 2504.15280."""

    rules: ClassVar[Mapping[str, Rule]] = {"official": Official(), "saner": Saner()}

    @dataclass
    class Config(PublishedBenchmark.Config):
        """What a recipe may set.

        Attributes:
            check_pairs: Refuse data in which linked questions are not linked back, or differ in category.
        """

        check_pairs: bool = True

    config: AllAngles.Config

    @cached_property
    def records(self) -> list[tuple[str, Record]]:
        """As in the base class, and the links between questions are checked."""
        found = super().records
        _, broken = _pairs([record for _, record in found])
        if broken and self.config.check_pairs:
            raise RecordsError(
                f"all_angles: {broken[0]} ({len(broken)} such links); if this data is meant, set "
                "eval.check_pairs=false (the score says so, and these make no pairs)"
            )
        return found

    def deviations(self) -> list[str]:
        found = super().deviations()
        if not self.config.check_pairs:
            found.append("links between questions were not checked")
        return found

    def task(self, record: Record) -> str:
        return _category(record)

    def media(self, record: Record) -> Media:
        paths = record["image_path"]
        paths = [paths] if isinstance(paths, str) else paths
        return Media(key=";".join(paths), pictures=tuple(paths))

    def scene(self, record: Record) -> str:
        return str(record.get("folder") or self.media(record).key)

    def answer(self, record: Record) -> str:
        return str(record["answer"])

    def options(self, record: Record) -> tuple[str, ...]:
        return tuple(f"{letter}. {text}" for letter, text in lettered_options(record).items())

    def prompt(self, record: Record) -> str:
        return choice_prompt(str(record["question"]), lettered_options(record))


def _category(record: Record) -> str:
    return str(record["category"])


def _pairs(records: Sequence[Record]) -> tuple[list[tuple[str, str]], list[str]]:
    """Indices of linked questions, and what is wrong with other links."""
    named = [(name, r) for r in records if (name := link(r.get("index"))) is not None]
    links = [(name, link(record.get("pair_idx"))) for name, record in named]
    return linked_pairs(links, {name: _category(record) for name, record in named})


def _consistency(rows: Sequence[Scored]) -> dict[str, float]:
    right = {link(row.record.get("index")): row.score == 1 for row in rows}
    category = {link(row.record.get("index")): _category(row.record) for row in rows}
    pairs, broken = _pairs([row.record for row in rows])
    found = consistency((right[a], right[b]) for a, b in pairs)
    for name in sorted({category[a] for a, _ in pairs}):
        part = consistency((right[a], right[b]) for a, b in pairs if category[a] == name)
        found |= {f"{name}_{kind}": value for kind, value in part.items()}
    return {**found, "pairs": float(len(pairs)), "broken_links": float(len(broken))}
