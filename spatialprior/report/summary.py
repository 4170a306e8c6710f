"""The short table that a run ends with in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spatialprior.report.ablations import (
    HEAD,
    ablation_rows,
    ablation_sentences,
    leak_line,
    leak_statements,
)
from spatialprior.report.controls import control_rows, control_statements
from spatialprior.report.figures import arm_labels, arms_of
from spatialprior.report.geometry import geometry_statements
from spatialprior.report.score_cards import COLUMNS, card_rows
from spatialprior.report.verdict import (
    Statement,
    beats_blind,
    number,
    retention,
    statements,
    with_interval,
)


def summary(report: Mapping[str, Any]) -> str:
    """Verdict, probe and question tables as plain text, at most about 100 columns."""
    parts = [f"{_SIGN[s.tone]} {s.lead} {s.text}".rstrip() for s in _statements(report)]
    labels = arm_labels(report)
    rows = []
    for name, arm in arms_of(report).items():
        kept = retention(arm)
        rows.append(
            [
                labels[name],
                str(arm["layer"]),
                with_interval(arm["peak_pck"], arm.get("ci95")),
                number(arm["chance"]),
                number(arm["static"]),
                number(arm.get("confidence_correlation")),
                f"{number(kept[1])} at {kept[0]}" if kept else "–",
                str(arm["n_anchors"]),
            ]
        )
    if rows:
        head = ["matching", "layer", "PCK [95 %]", "chance", "same place", "rho", "kept", "n"]
        parts += ["", _table(head, rows)]
    tasks = report.get("eval") or {}
    if tasks:
        control = report.get("eval_control") or {}
        head = [
            "questions",
            "score [95 %]",
            *(["control"] if control else []),
            "lookup",
            "chance",
            "n",
            "",
        ]
        rows = [
            [
                task,
                with_interval(row.get("score"), row.get("ci95")),
                *([number((control.get(task) or {}).get("score"))] if control else []),
                number(row.get("blind")),
                number(row.get("chance")),
                str(row.get("n", "–")),
                "beats lookup" if beats_blind(row) else "",
            ]
            for task, row in tasks.items()
        ]
        parts += ["", _table(head, rows)]
    if cards := card_rows(report):
        parts += ["", _table(COLUMNS, [[row[name] for name in COLUMNS] for row in cards])]
        parts += [
            f"* {row['arm']}: {'; '.join(row['deviations'])}" for row in cards if row["deviations"]
        ]
    if line := leak_line(report):
        parts += ["", line]
    if sentences := ablation_sentences(report):
        parts += ["", *(f"{_SIGN['neutral']} {sentence}" for sentence in sentences)]
    if rows := ablation_rows(report):
        shown = [(HEAD.index(cell), name) for cell, name in _ABLATION_CELLS.items()]
        head = [name for _, name in shown]
        parts += ["", _table(head, [[row[place] for place, _ in shown] for row in rows])]
    if controls := control_rows(report):
        head = ["recipe against", "", "their score", "difference [95 %]", "recipe is", "n / rooms"]
        keys = ("arm", "kind", "score", "gap", "says", "n")
        parts += ["", _table(head, [[row[key] for key in keys] for row in controls])]
    return "\n".join(parts)


def _statements(report: Mapping[str, Any]) -> list[Statement]:
    return [
        *leak_statements(report),
        *control_statements(report),
        *geometry_statements(report),
        *statements(report),
    ]


_ABLATION_CELLS = {
    "what is taken away": "taken away",
    "whole": "whole",
    "without": "without",
    "chance": "chance",
    "difference [95 %]": "difference [95 %]",
    "McNemar p (Holm)": "p (Holm)",
    "n / scenes": "n / scenes",
}

_SIGN = {"good": "+", "bad": "-", "neutral": "·"}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
