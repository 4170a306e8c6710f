"""The recipe against every other arm, question by question."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from spatialprior.core.intervals import paired_interval
from spatialprior.run.arms import BEFORE, CONTROL
from spatialprior.run.training import MAIN


def comparisons(scores: Mapping[str, Any], at_inference: Collection[str]) -> dict[str, Any]:
    """``eval_vs_control`` and ``comparisons`` of a report.

    Args:
        scores: Arm -> result of its ``eval`` stage.
        at_inference: Arms that are the trained recipe with something else in its features' place.
    """
    main = scores.get(MAIN)
    others = {name: scored for name, scored in scores.items() if name not in (MAIN, BEFORE)}
    found = {}
    for name, scored in others.items():
        gap = paired_difference(main, scored)
        if gap is not None:
            found[name] = {**gap, "at_inference": name in at_inference, "tasks": scored["tasks"]}
    return {"eval_vs_control": paired_difference(main, scores.get(CONTROL)), "comparisons": found}


def paired_difference(arm: Any, other: Any) -> dict[str, Any] | None:
    """Difference of two arms on the same questions, clustered by scene; ``None`` where one was not scored."""
    if not arm or not other:
        return None
    theirs = {row["id"]: row["score"] or 0.0 for row in other["replies"]}
    rows = [row for row in arm["replies"] if row["id"] in theirs]
    gap = paired_interval(
        [row["score"] or 0.0 for row in rows],
        [theirs[row["id"]] for row in rows],
        [row["source_id"] for row in rows],
    )
    return {"mean": gap.mean, "ci95": gap.bounds, "n": gap.n, "clusters": gap.num_clusters}
