"""A card recomputed from its replies, and what disagrees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spatialprior.eval.aggregates import aggregates_of
from spatialprior.eval.benchmark import Benchmark
from spatialprior.eval.cards.card import CardError, ResultCard, read_card
from spatialprior.eval.cards.figures import figures
from spatialprior.eval.cards.make import protocol_of, weights_hash
from spatialprior.eval.cards.regrade import grader, regraded
from spatialprior.eval.cards.stored import read_rows, records_hash
from spatialprior.export.manifest import MANIFEST, ExportError, file_hash, verify_manifest
from spatialprior.report.schema import jsonable

_SHOWN = 10
_GIVEN = ("blind", "vs_blind")
"""Figures of a task that need the training questions."""


@dataclass
class Verdict:
    """What a verification found.

    Attributes:
        agrees: What was recomputed or hashed and is the same, a line each.
        differs: What is not, likewise.
        unchecked: What could not be looked at.
        items: Replies whose stored grade is not what the rule says: id, stored, recomputed.
    """

    agrees: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    items: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.differs

    def check(self, same: bool, what: str, how: str) -> None:
        """Note that ``what`` agrees, or ``how`` it differs."""
        self.agrees.append(what) if same else self.differs.append(f"{what}: {how}")

    def text(self) -> str:
        """Lines for the terminal."""
        lines = [f"  agrees       {line}" for line in self.agrees]
        lines += [f"  not checked  {line}" for line in self.unchecked]
        lines += [f"  DIFFERS      {line}" for line in self.differs]
        if self.items:
            shown = [("item", "stored", "recomputed"), *self.items[:_SHOWN]]
            widths = [max(len(row[column]) for row in shown) for column in range(3)]
            lines += ["    " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in shown]
            if len(self.items) > _SHOWN:
                lines.append(f"    and {len(self.items) - _SHOWN} more")
        return "\n".join(lines)


def verify_card(path: Path) -> Verdict:
    """Recompute everything that can be recomputed; loads no model and reads no data but the replies.

    Raises:
        CardError: The card or its replies cannot be read, or the benchmark is not installed.
    """
    card, sealed = read_card(path)
    verdict = Verdict()
    verdict.check(sealed, "content of the card", "it was changed after it was written")
    try:
        replies, count = path.parent / Path(card.replies["file"]).name, int(card.replies["rows"])
        _check_weights(card, path.parent, verdict)
    except (KeyError, TypeError, ValueError) as error:
        raise CardError(f"{path} was changed: a field is missing or broken ({error!r})") from None
    rows = read_rows(replies, count)
    verdict.check(
        file_hash(replies) == card.replies["sha256"],
        f"{replies.name}, {len(rows)} replies",
        "the file was changed after it was scored",
    )
    try:
        _check_scores(card, rows, verdict)
    except (KeyError, TypeError, AttributeError) as error:
        raise CardError(
            f"{path} or {replies.name} lacks what scoring reads ({error!r}); score again (mode=eval)"
        ) from None
    return verdict


def _check_scores(card: ResultCard, rows: Sequence[dict[str, Any]], verdict: Verdict) -> None:
    verdict.check(
        records_hash(rows) == card.data["records_sha256"],
        "questions and records",
        "they are not those that were scored",
    )
    benchmark = grader(card)
    name = card.benchmark["name"]
    verdict.check(
        benchmark.version == card.benchmark["version"],
        f"version of {name}",
        f"{card.benchmark['version']} on the card, {benchmark.version} is installed",
    )
    _compare("protocol", card.protocol, jsonable(_protocol(benchmark)), verdict)
    again = regraded(benchmark, rows)
    verdict.items = list(_regraded_otherwise(rows, again))
    rule = card.protocol.get("rule", "the benchmark's own rule")
    verdict.check(
        not verdict.items,
        f"grades of {len(rows)} replies by {rule}",
        f"{len(verdict.items)} are not what the rule says",
    )
    scores = figures(benchmark, again, aggregates_of(benchmark, again))
    _compare("scores", _recomputable(card.scores), jsonable(scores), verdict)
    if any(task.get("blind") is not None for task in card.scores["tasks"].values()):
        verdict.unchecked.append("text-only lookup (it was fitted on training questions)")


def _protocol(benchmark: Benchmark) -> dict[str, Any]:
    try:
        return protocol_of(benchmark)
    except AttributeError as error:
        raise CardError(
            f"{benchmark.name} cannot tell its protocol without its data: {error}"
        ) from None


def _check_weights(card: ResultCard, folder: Path, verdict: Verdict) -> None:
    export = folder / card.model["export"]
    if not (export / MANIFEST).exists():
        verdict.unchecked.append(f"weights: {export.resolve()} is gone")
        return
    try:
        manifest = verify_manifest(export)
    except ExportError as error:
        verdict.differs.append(f"weights: {error}")
        return
    found = file_hash(export / MANIFEST), weights_hash(manifest)
    wanted = card.model["manifest_sha256"], card.model["weights_sha256"]
    verdict.check(found == wanted, "weights of the export", "another model lies there now")


def _regraded_otherwise(
    rows: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str, str]]:
    for row, new in zip(rows, again, strict=True):
        if _grade(row) != _grade(new):
            yield str(row["id"]), _told(row), _told(new)


def _grade(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # Without a score, an evaluator may keep null or 0: what counts is the same.
    return row["score"] or 0.0, row["parsed"], row.get("unscored"), row["correct"]


def _told(row: Mapping[str, Any]) -> str:
    why = f" ({row['unscored']})" if row.get("unscored") else ""
    return f"{row['score'] or 0.0:g}{why}, read as {row['parsed']!r}"


def _recomputable(scores: Mapping[str, Any]) -> dict[str, Any]:
    tasks = {
        task: {key: value for key, value in row.items() if key not in _GIVEN}
        for task, row in scores["tasks"].items()
    }
    return {**scores, "tasks": tasks}


def _compare(what: str, stored: Any, again: Any, verdict: Verdict) -> None:
    found = list(_differences(what, stored, again))
    verdict.differs += found
    if not found:
        verdict.agrees.append(what)


def _differences(where: str, stored: Any, again: Any) -> Iterator[str]:
    """One line for each leaf that is not the same; numbers may differ by rounding."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in {**stored, **again}:
            yield from _differences(f"{where}.{key}", stored.get(key), again.get(key))
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, (left, right) in enumerate(zip(stored, again, strict=True)):
            yield from _differences(f"{where}[{index}]", left, right)
    elif not _same(stored, again):
        yield f"{where}: {_shown(stored)} on the card, {_shown(again)} recomputed"


def _same(left: Any, right: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (left, right))
    if numbers:
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)
    return bool(left == right)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
