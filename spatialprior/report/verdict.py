"""What the numbers say, in words: computed, and plain where a run fell short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["good", "bad", "neutral"]


@dataclass(frozen=True)
class Statement:
    """One finding: ``lead`` says it, ``text`` holds the numbers behind it (possibly empty)."""

    tone: Tone
    lead: str
    text: str = ""


@dataclass(frozen=True)
class Target:
    """One thing that a run is meant to show. ``met`` is ``None`` where it was not measured."""

    name: str
    wanted: str
    measured: str
    met: bool | None


def number(value: float | None, digits: int = 2) -> str:
    """``0.74``, or an en dash where there is no value."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def with_interval(value: float | None, bounds: list[float] | None, digits: int = 2) -> str:
    """``0.74 [0.71, 0.77]``."""
    if bounds is None:
        return number(value, digits)
    low, high = (number(bound, digits) for bound in bounds)
    return f"{number(value, digits)} [{low}, {high}]"


def method(report: Mapping[str, Any]) -> str:
    """Label of the trained arm."""
    name = report.get("method")
    if name:
        return str(name)
    priors = report.get("priors") or []
    return " + ".join(str(p).upper() for p in priors) if priors else "training (no prior)"


def retention(arm: Mapping[str, Any]) -> tuple[int, float] | None:
    """Longest frame distance and PCK there over that at the shortest; ``None`` near chance."""
    ratios = {int(d): ratio for d, ratio in (arm.get("temporal_robustness") or {}).items()}
    if len(ratios) < 2 or ratios[max(ratios)] is None or not above_chance(arm):
        return None
    return max(ratios), float(ratios[max(ratios)])


def above_chance(arm: Mapping[str, Any]) -> bool:
    """Whether the arm matches clearly better than chance, so that ratios of its PCK mean something."""
    return float(arm["peak_pck"]) >= 2 * float(arm["chance"])


def _separate(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether the intervals of ``a`` and ``b`` leave a gap (without intervals: whether a is higher)."""
    if a.get("ci95") and b.get("ci95"):
        return float(a["ci95"][0]) > float(b["ci95"][1])
    return float(a["peak_pck"]) > float(b["peak_pck"])


def _pck(arm: Mapping[str, Any]) -> str:
    return with_interval(arm["peak_pck"], arm.get("ci95"))


def beats_blind(row: Mapping[str, Any]) -> bool | None:
    """Whether a task's score beats the text-only lookup with a 95 % interval that excludes it."""
    paired = (row.get("vs_blind") or {}).get("ci95")
    if paired:
        return float(paired[0]) > 0
    if row.get("ci95") and row.get("blind") is not None:
        return float(row["ci95"][0]) > float(row["blind"])
    return None


def statements(report: Mapping[str, Any]) -> list[Statement]:
    """The verdict, most important first."""
    probe = report.get("probe") or {}
    judged_by_answers = not probe and report.get("comparisons")
    return [
        *([] if judged_by_answers else _matching(probe, method(report))),
        *_confidence(probe),
        *_time(probe),
        *_ablation(probe),
        *_questions(report),
        *_export(report.get("export")),
    ]


def _matching(probe: Mapping[str, Any], name: str) -> list[Statement]:
    after, control, before = probe.get("after"), probe.get("control"), probe.get("before")
    if not after:
        return [Statement("neutral", "The probe did not run: nothing is known about matching.")]
    radius = after.get("settings", {}).get("radius_patches", 2)
    found = (
        f"Layer {after['layer']}, chosen on validation clips, finds the true match within "
        f"{radius:g} patches for {_pck(after)} of {after['n_anchors']} anchors"
    )
    floor = f"Chance gives {number(after['chance'])}, the same place {number(after['static'])}."
    if control:
        rest = f"the control, trained on the same clips, steps and seed, for {_pck(control)}"
        won = _separate(after, control)
        lead = f"{name} {'beat' if won else 'did not beat'} the control at matching."
        return [Statement("good" if won else "bad", lead, f"{found}; {rest}. {floor}")]
    if before:
        won = _separate(after, before)
        lead = f"Training with {name} {'raised' if won else 'did not raise'} matching."
        rest = f"before training {_pck(before)}. {floor} No control was trained."
        return [Statement("good" if won else "bad", lead, f"{found}; {rest}")]
    return [
        Statement(
            "neutral", "Matching was measured once.", f"{found}. {floor} Nothing to compare with."
        )
    ]


def _confidence(probe: Mapping[str, Any]) -> list[Statement]:
    after, before = probe.get("after"), probe.get("before")
    if not after:
        return []
    rho = after.get("confidence_correlation")
    if rho is None:
        return [Statement("neutral", "Whether confident matches are right could not be computed.")]
    bounds = after["rho_ci95_by_layer"][after["layer"]] if after.get("rho_ci95_by_layer") else None
    text = f"Correlation {with_interval(rho, bounds)}"
    if before and before.get("confidence_correlation") is not None:
        text += f", from {number(before['confidence_correlation'])} before"
    tone: Tone = "good" if rho >= 0.4 else "neutral" if rho > 0.1 else "bad"
    lead = {
        "good": "Confident matches tend to be right.",
        "neutral": "Confidence says a little about being right.",
        "bad": "Confidence says nothing about being right.",
    }[tone]
    return [Statement(tone, lead, f"{text}.")]


def _time(probe: Mapping[str, Any]) -> list[Statement]:
    after = probe.get("after")
    if not after or len(after.get("by_distance") or {}) < 2:
        return []
    if not above_chance(after):
        lead = "Robustness over time has no meaning here."
        return [Statement("neutral", lead, "Matching is near chance at every distance.")]
    kept = retention(after)
    if kept is None:
        return []
    distance, ratio = kept
    shortest = min(map(int, after["temporal_robustness"]))
    holds = ratio >= 0.85
    text = f"At frame distance {distance} it keeps {number(ratio)} of what it has at distance {shortest}."
    lead = f"Matching {'holds' if holds else 'fades'} over time."
    return [Statement("good" if holds else "bad", lead, text)]


def _ablation(probe: Mapping[str, Any]) -> list[Statement]:
    after, corr = probe.get("after"), probe.get("corr_only")
    if not after or not corr:
        return []
    won = _separate(after, corr)
    lead = f"The full method {'beats' if won else 'does not beat'} correspondence alone."
    text = f"PCK {_pck(after)} against {_pck(corr)}."
    return [Statement("good" if won else "bad", lead, text)]


def _questions(report: Mapping[str, Any]) -> list[Statement]:
    tasks = report.get("eval") or {}
    judged = {task: beats_blind(row) for task, row in tasks.items()}
    known = [task for task, verdict in judged.items() if verdict is not None]
    if not tasks:
        return [Statement("neutral", "No questions were scored.")]
    if not known:
        return []
    won = [task for task in known if judged[task]]
    lead = (
        f"On {len(won)} of {len(known)} question types the exported model beats a lookup of the "
        "question's text alone."
    )
    text = f"With a 95 % interval that excludes it: {', '.join(won)}." if won else ""
    found = [Statement("good" if won else "bad", lead, text)]
    found += _forgotten(report.get("eval_before") or {}, won)
    control = report.get("eval_control") or {}
    shared = [task for task in known if task in control]
    if shared:
        found.append(
            _against_control(report, _mean(tasks, shared), _mean(control, shared), len(shared))
        )
    return found


def _forgotten(before: Mapping[str, Any], won: list[str]) -> list[Statement]:
    """What the model could answer before this training and cannot any more."""
    lost = [task for task, row in before.items() if beats_blind(row) and task not in won]
    if not lost:
        return []
    text = f"Before it these question types beat the lookup, and no longer do: {', '.join(lost)}."
    return [Statement("bad", "This training cost answers.", text)]


def _against_control(report: Mapping[str, Any], here: float, there: float, count: int) -> Statement:
    text = f"Mean score {number(here)} against {number(there)}, over {count} question types"
    gap = report.get("eval_vs_control") or {}
    bounds = gap.get("ci95")
    if not bounds:
        return Statement(
            "neutral", "Answers beside the control's:", f"{text}; a gap without an interval."
        )
    text += f"; paired difference {with_interval(gap.get('mean'), bounds)}."
    if bounds[0] > 0:
        return Statement("good", "It answers better than the control.", text)
    if bounds[1] < 0:
        return Statement("bad", "It answers worse than the control.", text)
    return Statement(
        "neutral", "Its answers are neither better nor worse than the control's.", text
    )


def _mean(rows: Mapping[str, Mapping[str, Any]], tasks: list[str]) -> float:
    return float(sum(rows[task]["score"] for task in tasks) / len(tasks))


def _export(export: Mapping[str, Any] | None) -> list[Statement]:
    if not export:
        return []
    if kept := export.get("kept"):
        return [_kept(kept, bool(export.get("identical_logits")))]
    extra = export.get("extra_keys")
    count = len(extra) if isinstance(extra, (list, tuple)) else int(extra or 0)
    same = export.get("identical_logits")
    if same and not count:
        text = "No extra keys; logits identical to the trained model's."
        return [Statement("good", "The export is a stock checkpoint.", text)]
    faults = [] if same else ["its logits differ from the trained model's"]
    faults += [f"it has {count} extra keys"] if count else []
    return [Statement("bad", "The export is not a stock checkpoint:", f"{' and '.join(faults)}.")]


def _kept(kept: Mapping[str, Any], stock: bool) -> Statement:
    names = ", ".join(kept["kept"])
    if not (kept["identical_logits"] and stock):
        return Statement("bad", "The export does not compute what the trained model does.", names)
    more = (kept["fusion_flops"] + kept["frozen_flops"]) / kept["flops"]
    text = (
        f"{names} ships beside a stock checkpoint and changes inference: {kept['kept_parameters']:,} "
        f"parameters more, {kept['frozen_parameters']:,} of frozen models, {more:+.0%} FLOPs on a short prompt."
    )
    return Statement("neutral", "The export keeps its prior.", text)


def targets(report: Mapping[str, Any]) -> list[Target]:
    """What a run of this size on this data is meant to show, and whether it does."""
    probe = report.get("probe") or {}
    after, control = probe.get("after"), probe.get("control")
    if not after or "gasp" not in str(report.get("priors")).lower():
        return []
    embedded = report.get("data", "rooms") == "rooms"
    rows: list[Target] = []

    def add(name: str, sign: str, bound: float, value: float | None) -> None:
        met = None if value is None else (value >= bound if sign == "≥" else value <= bound)
        rows.append(Target(name, f"{sign} {bound:.2f}", number(value), met))

    if embedded:
        add("peak PCK", "≥", 0.80 if report.get("size") == "small" else 0.60, after["peak_pck"])
        add("peak PCK of the control", "≤", 0.12, control["peak_pck"] if control else None)
        add("chance over these pairs", "≤", 0.06, after["chance"])
        add("same place over these pairs", "≤", 0.30, after["static"])
    elif control:
        ratio = after["peak_pck"] / control["peak_pck"] if control["peak_pck"] else None
        add("peak PCK over the control's", "≥", 2.0, ratio)
    add("correlation of confidence and correctness", "≥", 0.40, after.get("confidence_correlation"))
    kept = retention(after)
    add("PCK at the longest distance over the shortest", "≥", 0.85, kept[1] if kept else None)
    return rows
