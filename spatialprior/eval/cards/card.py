"""``card.json``: everything that a score depends on, and the score."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialprior.report.schema import jsonable, write_text

CARD = "card.json"
SCHEMA_VERSION = "1.0"
_SEAL = "sha256"
_NOTHING = {"value": None, "ci95": None}


class CardError(ValueError):
    """A card is missing, broken, or cannot be recomputed. One line."""


@dataclass(frozen=True)
class ResultCard:
    """The score of one exported model on one benchmark. All fields are plain JSON.

    Attributes:
        benchmark: ``name`` (as recipes write it), ``version``, ``direction``, ``settings`` (but for ``root``).
        data: ``hub``, ``revision`` (expected), ``revisions_found``, ``split``, and ``records_sha256`` over the
            questions asked, in their order.
        protocol: ``name``, what it asks for, and ``deviations``, a sentence each.
        decoding: ``decoding``, ``max_new_tokens``, ``engine``, ``batch``.
        model: ``export`` (relative to the card), ``manifest_sha256``, ``weights_sha256`` (over names and hashes
            of all tensors), ``recipe_hash``, ``priors``, ``base``, ``seed``, ``changes`` (at inference).
        run: ``recipe``, ``folder``, ``arm``.
        software: ``commit``, ``dirty`` (local changes), ``versions``.
        hardware: As in ``report.json``, and ``devices``.
        cost: ``seconds`` spent answering in this call, ``items_per_second``, ``device_hours``, ``price``.
        scores: From :func:`~spatialprior.eval.cards.figures.figures`; of each task also its ``blind`` lookup.
        implementation: Prior -> what ours was verified against, and what not.
        replies: ``file`` beside the card, its ``sha256``, ``rows``: how many of its first lines were scored.
    """

    benchmark: dict[str, Any]
    data: dict[str, Any]
    protocol: dict[str, Any]
    decoding: dict[str, Any]
    model: dict[str, Any]
    run: dict[str, Any]
    software: dict[str, Any]
    hardware: dict[str, Any]
    cost: dict[str, Any]
    scores: dict[str, Any]
    implementation: dict[str, str]
    replies: dict[str, Any]
    schema_version: str = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """As written, with a hash over all of it."""
        content: dict[str, Any] = jsonable(dataclasses.asdict(self))
        return {**content, _SEAL: _hash(content)}

    def write(self, folder: Path) -> Path:
        """Write ``card.json`` into ``folder``, whole or not at all."""
        path = folder / CARD
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")
        return path

    def summary(self) -> dict[str, Any]:
        """What a report prints beside the score."""
        scores = self.scores
        return {
            "benchmark": self.benchmark["name"],
            "version": self.benchmark["version"],
            "split": self.data["split"],
            "protocol": self.protocol["name"],
            "rule": self.protocol.get("rule"),
            "deviations": self.protocol["deviations"],
            "headline": scores["headline"],
            **{name: scores["aggregates"].get(name, _NOTHING) for name in ("micro", "macro")},
            **{key: scores[key] for key in ("n", "parse_failure_rate", "unscored", "errors")},
        }


def read_card(path: Path) -> tuple[ResultCard, bool]:
    """A card, and whether its content is what was written.

    Raises:
        CardError: It is missing, broken, or of a version that this code does not know.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CardError(
            f"{path} does not exist or cannot be read; give a card.json or a folder of them"
        ) from None
    except ValueError as error:
        raise CardError(f"{path} is not JSON ({error}); score again (mode=eval)") from None
    if not isinstance(content, dict):
        raise CardError(f"{path} holds a {type(content).__name__}, not a card")
    version = str(content.get("schema_version"))
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise CardError(f"{path} has schema {version}, this code reads {SCHEMA_VERSION}")
    seal = content.pop(_SEAL, None)
    known = {item.name for item in dataclasses.fields(ResultCard)}
    if lacking := sorted(known - content.keys()):
        raise CardError(f"{path} lacks {', '.join(lacking)}; score again (mode=eval)")
    for name in known - {"schema_version"}:
        if not isinstance(content[name], dict):
            raise CardError(f"{path}: {name} must be a mapping; score again (mode=eval)")
    card = ResultCard(**{name: content[name] for name in known})
    return card, seal == _hash(content)


def find_cards(place: Path) -> list[Path]:
    """The card itself, or all those below a folder, in the order of their paths.

    Raises:
        CardError: There is none.
    """
    if place.is_file():
        return [place]
    found = sorted(place.rglob(CARD))
    if not found:
        raise CardError(f"{place} is no card and no folder with one; score a run first (mode=eval)")
    return found


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
