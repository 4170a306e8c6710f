"""Does it matter? The exported model beside itself with something taken away, and the leak audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialprior.report.verdict import Statement, number, with_interval

_DIGITS = 3

_WORDS = {
    "blind": ("Without its views", "it looks", "that it looks"),
    "single_frame": ("With one view alone", "it uses the others", "that it uses the others"),
    "shuffled_frames": (
        "With its views in another order",
        "their order matters to it",
        "that their order matters to it",
    ),
    "zero_prior": (
        "With zeros in the place of the prior's features",
        "it uses them",
        "that it uses them",
    ),
    "other_scene_prior": (
        "With the prior's features of another scene",
        "it uses what they say of the scene",
        "that it uses what they say of the scene",
    ),
}
"""Ablation -> how it is told, what a loss shows, and what no loss leaves open."""


def ablation_sentences(report: Mapping[str, Any]) -> list[str]:
    """One sentence for each ablation, from the intervals alone."""
    return [_sentence(name, entry) for name, entry in _found(report).items()]


def ablation_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """One row for each ablation that was done, as :data:`HEAD` names its cells."""
    return [_row(entry["what"], entry) for entry in _done(report).values()]


def ablation_task_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """One row for each of these and each task."""
    return [
        _row(f"{task}: {entry['what']}", row)
        for entry in _done(report).values()
        for task, row in entry["tasks"].items()
    ]


HEAD = (
    "what is taken away",
    "whole",
    "without",
    "chance",
    "difference [95 %]",
    "right only whole / only without",
    "McNemar p (Holm)",
    "no option",
    "n / scenes",
)


def _found(report: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return report.get("ablations") or {}


def _done(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: entry for name, entry in _found(report).items() if entry["applicable"]}


def _row(what: str, entry: Mapping[str, Any]) -> list[str]:
    test = entry["mcnemar"]
    return [
        what,
        number(entry["whole"], _DIGITS),
        number(entry["score"], _DIGITS),
        number(entry["chance"], _DIGITS),
        with_interval(entry["difference"], entry["ci95"], _DIGITS),
        f"{test['only_whole']} / {test['only_ablated']}" if test else "–",
        _p(test["p_holm"]) if test else "–",
        str(entry["unreadable"]),
        f"{entry['n']} / {entry['clusters']}",
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _sentence(name: str, entry: Mapping[str, Any]) -> str:
    lead, shown, open_ = _WORDS.get(name, (name, "it matters", "that it matters"))
    if not entry["applicable"]:
        return f"{lead}: {entry['reason']}."
    loss, bounds = entry["difference"], entry["ci95"]
    if loss is None or bounds is None:
        return f"{lead}: too few scenes to tell."
    if entry["direction"] == "lower":
        loss, bounds = -loss, [-bounds[1], -bounds[0]]
    size = with_interval(loss, bounds, _DIGITS)
    if bounds[0] > 0:
        told = f"{lead} the model loses {size}: {shown}"
    elif bounds[1] < 0:
        told = f"{lead} the model answers better (it loses {size}): what is taken away stands in its way"
    else:
        told = f"{lead} no loss is shown ({size}), so nothing here says {open_}"
    if entry["unreadable"] > entry["unreadable_whole"]:
        told += (
            f"; {entry['unreadable']} of {entry['n']} replies are then none of the options, "
            f"{entry['unreadable_whole']} otherwise"
        )
    if failed := entry.get("failed"):
        told += f"; {failed} questions failed for one of the two alone, and count as wrong there"
    return f"{told}."


def leak_statements(report: Mapping[str, Any]) -> list[Statement]:
    """A warning where scenes of the benchmark were training data."""
    leaks = report.get("leaks") or {}
    if not leaks.get("shared"):
        return []
    return [
        Statement(
            "bad",
            "The benchmark's scenes are not all held out.",
            f"{leaks['told']} are in the training data too: the scores are no measure of unseen scenes.",
        )
    ]


def leak_line(report: Mapping[str, Any]) -> str:
    """What the leak audit compared, and what it could not; empty where there was none."""
    leaks = report.get("leaks")
    if not leaks:
        return ""
    if not leaks["benchmark"]["audited"]:
        return f"Scenes not audited against training data: of the benchmark, {leaks['benchmark']['why']}."
    audited = [
        f"{source['scenes']} of {name}" + _unnamed(source)
        for name, source in leaks["sources"].items()
        if source["audited"]
    ]
    silent = [
        f"{name}: {source['why']}"
        for name, source in leaks["sources"].items()
        if not source["audited"]
    ]
    told = ""
    if audited:
        asked = (
            f"{leaks['benchmark']['scenes']} scenes of the benchmark{_unnamed(leaks['benchmark'])}"
        )
        told = f"{asked} against {', '.join(audited)}: {leaks['shared'] or 'none'} shared."
    if silent:
        told += f" Not audited: {'; '.join(silent)}."
    return told.strip()


def _unnamed(scenes: Mapping[str, Any]) -> str:
    return f" (and {scenes['unnamed']} that name none)" if scenes["unnamed"] else ""
