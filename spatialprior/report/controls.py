"""Does the prior do anything? The recipe against equal capacity, and against itself without its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatialprior.report.verdict import Statement, number, with_interval

CONTROL = "control"
_DIGITS = 3  # differences are small, and 0.00 says nothing

WORDS = {
    "control": "no prior (SFT)",
    "random_weights": "same encoder, random weights",
    "noise": "noise for features",
    "own_vision": "the backbone's own vision features",
    "zero_features": "zeros for features",
    "shuffled_features": "features of the view's other cells",
    "other_scene": "features of another scene",
}
"""Arms that our recipes name; others are called by their name."""

_MATCHED = ("random_weights", "noise", "own_vision")
"""Those with the recipe's own modules, fed something else."""


def label(name: str) -> str:
    """What an arm is called in tables."""
    return WORDS.get(name, name.replace("_", " "))


def control_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each arm that the recipe is compared with; empty for a recipe with the SFT control alone."""
    found: Mapping[str, Mapping[str, Any]] = report.get("comparisons") or {}
    if not found.keys() - {CONTROL}:
        return []
    return [
        {
            "arm": label(name),
            "kind": "at inference" if gap["at_inference"] else "trained",
            "score": number(_mean_score(gap.get("tasks") or {}), _DIGITS),
            "gap": with_interval(gap.get("mean"), gap.get("ci95"), _DIGITS),
            "says": {1: "better", -1: "worse", 0: "no difference shown"}[_sign(gap)],
            "n": f"{gap['n']} / {gap['clusters']}",
        }
        for name, gap in found.items()
    ]


def control_statements(report: Mapping[str, Any]) -> list[Statement]:
    """The answer to the question, from the intervals alone."""
    found: Mapping[str, Mapping[str, Any]] = report.get("comparisons") or {}
    trained = {n: g for n, g in found.items() if not g["at_inference"]}
    matched = {n: g for n, g in trained.items() if n in _MATCHED}
    replaced = {n: g for n, g in found.items() if g["at_inference"]}
    if not matched and not replaced:
        return []
    compared = {CONTROL: trained[CONTROL]} if CONTROL in trained else {}
    statements = [_headline(compared | matched, matched)] if matched else []
    if replaced:
        signs = [_sign(gap) for gap in replaced.values()]
        lead = "There is no sign that the trained model uses its features."
        if min(signs) < 0:
            lead = "The trained model answers better without its features."
        elif max(signs) > 0:
            lead = "The trained model uses its features."
        text = f"Change of the mean score with the features in place: {_told(replaced)}."
        statements.append(Statement("neutral", lead, text))
    return statements


def _headline(trained: Mapping[str, Any], matched: Mapping[str, Any]) -> Statement:
    signs = {name: _sign(gap) for name, gap in trained.items()}
    text = f"Paired differences of the mean score: {_told(trained)}."
    question = "Does the prior do anything here?"
    if all(sign > 0 for sign in signs.values()):
        beaten = "no prior and " if CONTROL in trained else ""
        lead = f"{question} Yes: it beats {beaten}every arm of equal capacity."
        return Statement("good", lead, text)
    if any(signs[name] < 0 for name in matched) or signs.get(CONTROL, 0) < 0:
        worse = [label(name) for name, sign in signs.items() if sign < 0]
        lead = f"{question} Not for the better: {', '.join(worse)} answers better."
        return Statement("bad", lead, text)
    if signs.get(CONTROL, 0) > 0:
        equal = [label(name) for name in matched if signs[name] == 0]
        lead = (
            f"{question} It beats no prior, but not {', '.join(equal)}: the gain may be capacity's."
        )
        return Statement("neutral", lead, text)
    lead = f"{question} Nothing that these questions show."
    return Statement("neutral", lead, text)


def _told(gaps: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{label(n)} {with_interval(g['mean'], g['ci95'], _DIGITS)}" for n, g in gaps.items()
    )


def _sign(gap: Mapping[str, Any]) -> int:
    """1 where the recipe is better with an interval that excludes zero, -1 where it is worse, else 0."""
    bounds = gap.get("ci95")
    if not bounds or None in bounds:
        return 0
    return 1 if bounds[0] > 0 else -1 if bounds[1] < 0 else 0


def _mean_score(tasks: Mapping[str, Any]) -> float | None:
    """Mean over all questions, as the differences are."""
    rows = [row for row in tasks.values() if row.get("score") is not None]
    count = sum(row["n"] for row in rows)
    return sum(row["n"] * row["score"] for row in rows) / count if count else None
