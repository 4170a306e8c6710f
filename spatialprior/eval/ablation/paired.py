"""What taking something away changes: the same questions, answered with and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from spatialprior.core.intervals import Interval, paired_interval

Row = Mapping[str, Any]


@dataclass(frozen=True)
class McNemar:
    """Whether two models are fully right equally often, from the questions on which they differ.

    Attributes:
        only_whole: Questions that only the whole model has fully right.
        only_ablated: Those that only the ablated one has.
    """

    only_whole: int
    only_ablated: int

    @property
    def p(self) -> float:
        """Exact two-sided p: under the null each such question falls to either side like a coin.

        It takes questions for independent, also those about one scene (McNemar 1947, in its binomial form).
        """
        count = self.only_whole + self.only_ablated
        return float(binomtest(self.only_whole, count, 0.5).pvalue) if count else 1.0


@dataclass(frozen=True)
class Paired:
    """One comparison.

    Attributes:
        whole, ablated: Mean scores of the same questions.
        difference: Whole minus ablated, its interval bootstrapped over scenes.
        mcnemar: Of "fully right" (a score of 1); ``None`` where lower scores are better.
        graded: Whether some score is neither 0 nor 1, so that "fully right" tells less than the score.
        chance: What a uniform guess among the options would score.
        unreadable, unreadable_whole: Replies that are none of the options, of the ablated and the whole model.
        failed: Questions that failed (a broken video, say) for one of the two alone, and count as wrong there.
    """

    whole: float
    ablated: float
    difference: Interval
    mcnemar: McNemar | None
    graded: bool
    chance: float
    unreadable: int
    unreadable_whole: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """As in ``report.json``; ``p_holm`` is added by :func:`holm`."""
        gap, test = self.difference, self.mcnemar
        counts = test and {
            "only_whole": test.only_whole,
            "only_ablated": test.only_ablated,
            "p": test.p,
        }
        return {
            "score": self.ablated,
            "whole": self.whole,
            "difference": gap.mean,
            "ci95": gap.bounds,
            "n": gap.n,
            "clusters": gap.num_clusters,
            "graded": self.graded,
            "chance": self.chance,
            "unreadable": self.unreadable,
            "unreadable_whole": self.unreadable_whole,
            "failed": self.failed,
            "mcnemar": counts,
        }


def paired(whole: Sequence[Row], ablated: Sequence[Row], direction: str = "higher") -> Paired:
    """Compare rows of replies by ``id``; one that failed or has no score counts as 0, as in every score.

    Args:
        whole: ``id``, ``score``, ``correct``, ``parsed``, ``chance`` and ``source_id`` of each reply of the
            whole model.
        ablated: The same of the other.
        direction: Whether a ``higher`` or a ``lower`` score is better.
    """
    theirs = {row["id"]: row for row in ablated}
    pairs = [(row, theirs[row["id"]]) for row in whole if row["id"] in theirs]
    ours = [float(a["score"] or 0.0) for a, _ in pairs]
    others = [float(b["score"] or 0.0) for _, b in pairs]
    gap = paired_interval(ours, others, [a["source_id"] for a, _ in pairs])
    test = None
    if direction == "higher":
        test = McNemar(
            sum(a["correct"] and not b["correct"] for a, b in pairs),
            sum(b["correct"] and not a["correct"] for a, b in pairs),
        )
    count = max(len(pairs), 1)
    graded = any(score not in (0.0, 1.0) for score in (*ours, *others))
    return Paired(
        whole=sum(ours) / count,
        ablated=sum(others) / count,
        difference=gap,
        mcnemar=test,
        graded=graded,
        chance=sum(a["chance"] for a, _ in pairs) / count,
        unreadable=sum(_unreadable(b) for _, b in pairs),
        unreadable_whole=sum(_unreadable(a) for a, _ in pairs),
        failed=sum(("error" in a) != ("error" in b) for a, b in pairs),
    )


def _unreadable(row: Row) -> bool:
    """Whether a reply came and was none of the options."""
    return row["parsed"] is None and "error" not in row


def compare(
    whole: Sequence[Row], ablated: Mapping[str, Sequence[Row]], direction: str = "higher"
) -> dict[str, dict[str, Any]]:
    """Ablation -> its comparison, with ``tasks``: the same of each task.

    ``p_holm`` is adjusted for the number of ablations; of tasks, for the number of tasks times ablations.
    """
    tasks = dict.fromkeys(row["task"] for row in whole)
    found: dict[str, dict[str, Any]] = {}
    for name, rows in ablated.items():
        found[name] = paired(whole, rows, direction).to_dict()
        found[name]["tasks"] = {
            task: paired(
                [row for row in whole if row["task"] == task],
                [row for row in rows if row["task"] == task],
                direction,
            ).to_dict()
            for task in tasks
        }
    _adjust(list(found.values()))
    _adjust([row for entry in found.values() for row in entry["tasks"].values()])
    return found


def holm(values: Sequence[float]) -> list[float]:
    """Values of p adjusted for their number, in their order (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, values[place] * (len(values) - rank)))
        adjusted[place] = largest
    return adjusted


def _adjust(entries: Sequence[dict[str, Any]]) -> None:
    tests = [entry["mcnemar"] for entry in entries if entry["mcnemar"] is not None]
    for test, value in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = value
