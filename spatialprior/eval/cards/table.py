"""Cards and published numbers to tables: what shares a column, and what stands below."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from spatialprior.eval.cards.card import ResultCard
from spatialprior.eval.cards.labels import WORD
from spatialprior.eval.cards.reference import THEIRS, Reference

NONE = "-"
_MEANS = ("micro", "macro")
_COUNTS = ("parse failures", "unscored", "errors")


@dataclass(frozen=True)
class Cell:
    """Text with what is said about it below the table."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One row; ``theirs`` is a published one, kept apart from ours."""

    label: Cell
    cells: tuple[Cell, ...]
    theirs: bool = False


@dataclass(frozen=True)
class Table:
    """Plain texts, not yet escaped for any format."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


class Setting(NamedTuple):
    """What two scores must have in common to share a column."""

    benchmark: str
    version: str
    split: str | None
    protocol: str
    rule: str | None
    source: str | None

    def title(self) -> str:
        """In words."""
        parts = [f"{self.benchmark}, version {self.version}", self.split and f"split {self.split}"]
        parts += [f"protocol {self.protocol}", self.rule and f"rule {self.rule}"]
        return ", ".join(part for part in parts if part)


def setting_of(card: ResultCard) -> Setting:
    """The column that a card's score belongs to."""
    return Setting(
        card.benchmark["name"],
        card.benchmark["version"],
        card.data["split"],
        card.protocol["name"],
        card.protocol.get("rule"),
        card.protocol.get("source"),
    )


def tables(cards: Sequence[ResultCard], published: Sequence[Reference] = ()) -> list[Table]:
    """One table a setting, tasks in columns; before them, where there are several, one of all headlines.

    Published rows join a table whose questions they answer; others about one of its benchmarks come in tables
    of their own.
    """
    groups: dict[Setting, list[ResultCard]] = {}
    for card in cards:
        groups.setdefault(setting_of(card), []).append(card)
    found = [_overview(cards, list(groups))] if len(groups) > 1 else []
    apart = {id(ref): ref for ref in published if any(s.benchmark == ref.benchmark for s in groups)}
    for setting, members in groups.items():
        members.sort(key=lambda card: "ablation" in card.protocol)  # whole models come first
        joining = [ref for ref in published if _joins(ref, setting)]
        found.append(_tasks(setting, members, joining))
        for ref in joining:
            apart.pop(id(ref), None)
    return found + [_alone(ref) for ref in apart.values()]


def _joins(ref: Reference, setting: Setting) -> bool:
    same = ref.benchmark == setting.benchmark and ref.split in (None, setting.split)
    return same and ref.comparable and setting.rule != "saner"


def _overview(cards: Sequence[ResultCard], settings: Sequence[Setting]) -> Table:
    """Headlines: a row a model, a column a setting."""
    rows: dict[str, list[dict[Setting, ResultCard]]] = {}
    for card in cards:
        lines = rows.setdefault(_identity(card), [])
        free = next((line for line in lines if setting_of(card) not in line), None)
        if free is None:  # the first one, or scored twice with other deviations
            lines.append(free := {})
        free[setting_of(card)] = card
    found: list[Line] = []
    for members in (line for each in rows.values() for line in each):
        first = next(iter(members.values()))
        cells = [
            _headline(members[setting]) if setting in members else Cell(NONE)
            for setting in settings
        ]
        found.append(Line(Cell(_label(first), _model_notes(first)), tuple(cells)))
    return Table("Headline scores", tuple(setting.title() for setting in settings), tuple(found))


def _tasks(setting: Setting, cards: Sequence[ResultCard], published: Sequence[Reference]) -> Table:
    names = dict.fromkeys(card.scores["headline"]["name"] for card in cards)
    names |= dict.fromkeys(_MEANS)
    names |= dict.fromkeys(task for card in cards for task in card.scores["tasks"])
    names |= dict.fromkeys(name for ref in published for name in ref.columns)
    lines = []
    for card in cards:
        notes = [*_model_notes(card), *_score_notes(card)]
        if card.data["records_sha256"] != cards[0].data["records_sha256"]:
            notes.append("other questions than the first row's")
        cells = [*(_figure(card, name) for name in names), *map(Cell, _counts(card))]
        lines.append(Line(Cell(_label(card), tuple(notes)), tuple(cells)))
    lines += [line for ref in published for line in _theirs(ref, list(names), len(_COUNTS))]
    source = f"Protocol {setting.protocol}: {setting.source}" if setting.source else None
    return Table(
        setting.title(),
        (*names, *_COUNTS),
        tuple(lines),
        (*([source] if source else []), *_reading(cards)),
    )


def _alone(ref: Reference) -> Table:
    title = f"{ref.benchmark}: {ref.paper}, {THEIRS}; not comparable with the tables above"
    return Table(title, tuple(ref.columns), tuple(_theirs(ref, list(ref.columns), 0)))


def _theirs(ref: Reference, names: Sequence[str], more: int) -> list[Line]:
    factors = [(name, ref.columns[name]) for name in ref.columns]
    lines = []
    for row, numbers in ref.rows.items():
        known = {
            name: f"{number * factor:.6g}"
            for (name, factor), number in zip(factors, numbers, strict=True)
            if number is not None
        }
        cells = [Cell(known.get(name, NONE)) for name in names] + [Cell(NONE)] * more
        label = Cell(f"{ref.paper} (theirs): {row}", ref.notes)
        lines.append(Line(label, tuple(cells), theirs=True))
    return lines


# --- ours -----------------------------------------------------------------------------------


def _identity(card: ResultCard) -> str:
    model = (card.run, card.model["manifest_sha256"], card.model["changes"])
    return json.dumps(model, sort_keys=True)


def _label(card: ResultCard) -> str:
    ours = {n: ", re-implementation" for n, text in card.implementation.items() if WORD in text}
    priors = "; ".join(f"{n}{ours.get(n, '')}" for n in card.model["priors"]) or "no prior"
    return f"{card.run['recipe']}/{card.run['folder']} {card.run['arm']} ({priors})"


def _model_notes(card: ResultCard) -> tuple[str, ...]:
    notes = list(card.implementation.values())
    if card.model["changes"]:
        notes.append(f"changed at inference: {json.dumps(card.model['changes'], sort_keys=True)}")
    commit = card.software["commit"]
    if card.software["dirty"]:
        notes.append(f"the working tree had local changes (on commit {commit[:12]})")
    elif commit is None:
        notes.append("scored outside of git: no commit is known")
    return tuple(notes)


def _score_notes(card: ResultCard) -> tuple[str, ...]:
    notes = []
    if card.protocol["deviations"]:
        notes.append(f"deviates from the protocol: {'; '.join(card.protocol['deviations'])}")
    for why, count in card.scores["unscored"].items():
        notes.append(f"{count} of {card.scores['n']} replies have no score ({why}) and count as 0")
    if card.scores["errors"]:
        notes.append(f"{card.scores['errors']} of {card.scores['n']} questions failed")
    return tuple(notes)


def _headline(card: ResultCard) -> Cell:
    name = card.scores["headline"]["name"]
    cell = _figure(card, name)
    return Cell(f"{name} {cell.text}", _score_notes(card))


def _figure(card: ResultCard, name: str) -> Cell:
    """A task, or an aggregate, with interval and n."""
    scores = card.scores
    if name in scores["tasks"]:
        task = scores["tasks"][name]
        return Cell(_value(task["score"], task["ci95"], 100, task["n"]))
    if name in scores["aggregates"]:
        figure = scores["aggregates"][name]
        factor = 100 if name in _MEANS else 1
        return Cell(_value(figure["value"], figure["ci95"], factor, scores["n"]))
    return Cell(NONE)


def _value(value: float | None, bounds: Sequence[float] | None, factor: int, n: int) -> str:
    if value is None:
        return NONE
    shown = [f"{v * factor:.1f}" if factor == 100 else f"{v:.4g}" for v in (value, *(bounds or ()))]
    interval = f" [{shown[1]}, {shown[2]}]" if bounds else ""
    return f"{shown[0]}{interval} (n {n})"


def _counts(card: ResultCard) -> tuple[str, str, str]:
    scores: Mapping[str, Any] = card.scores
    rate = scores["parse_failure_rate"]
    return (
        NONE if rate is None else f"{100 * rate:.1f} %",
        str(sum(scores["unscored"].values())),
        str(scores["errors"]),
    )


def _reading(cards: Sequence[ResultCard]) -> tuple[str, ...]:
    """How to read the numbers."""
    chance = cards[0].scores["chance"]
    words = "Tasks, micro and macro are in percent; other sums are in the scale of their rule"
    level = f"; a guess among the options gets {100 * chance:.1f} % (micro)" if chance else ""
    return (f"{words}. In brackets: 95 % intervals, clustered by scene; n: questions{level}",)
