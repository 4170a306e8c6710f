"""What stands beside every score: whose protocol, over how many questions, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialprior.report.controls import label
from spatialprior.report.verdict import number, with_interval

_MAIN = {"before": "before training", "after": "recipe"}
_DIGITS = 3

COLUMNS = (
    "arm",
    "protocol",
    "headline [95 %]",
    "micro [95 %]",
    "macro",
    "n",
    "parse failures",
    "unscored",
    "errors",
)


def card_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each scored arm: :data:`COLUMNS`, and ``deviations``, ``unscored_for``, ``file``."""
    cards: Mapping[str, Mapping[str, Any]] = report.get("cards") or {}
    return [_row(arm, card) for arm, card in cards.items()]


def protocol_name(card: Mapping[str, Any]) -> str:
    """Benchmark and protocol in a few words, with a rule that is not the protocol's namesake."""
    words = f"{card['benchmark']} {card['split'] or ''}".strip()
    rule = card["rule"]
    other = f", rule {rule}" if rule and rule != card["protocol"] else ""
    return f"{words}: {card['protocol']}{other}"


def _row(arm: str, card: Mapping[str, Any]) -> dict[str, Any]:
    headline, micro, macro = card["headline"], card["micro"], card["macro"]
    rate, unscored = card["parse_failure_rate"], card["unscored"]
    values = (
        _MAIN.get(arm, label(arm)),
        protocol_name(card) + ("*" if card["deviations"] else ""),
        f"{headline['name']} {_shown(headline)}",
        _shown(micro),
        _shown(macro),
        str(card["n"]),
        "–" if rate is None else f"{rate:.1%}",
        str(sum(unscored.values())),
        str(card["errors"]),
    )
    return {
        **dict(zip(COLUMNS, values, strict=True)),
        "deviations": list(card["deviations"]),
        "unscored_for": [f"{count} x {why}" for why, count in unscored.items()],
        "file": card["file"],
    }


def _shown(figure: Mapping[str, Any]) -> str:
    value = figure["value"]
    return number(value) if value is None else with_interval(value, figure["ci95"], _DIGITS)
