"""Curves of a report as data URIs: PCK and rho by layer, robustness over time, training."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spatialprior.report.schema import ARMS
from spatialprior.report.verdict import above_chance, method, number

COLOURS = {"before": "#7a7f87", "control": "#d9822b", "corr_only": "#8e6bbf", "after": "#1f6fb2"}
_MARKERS = {"before": "s", "control": "^", "corr_only": "D", "after": "o"}
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.edgecolor": "#9aa0a8",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "spatialprior",  # the same report gives the same bytes
}


@dataclass(frozen=True)
class Picture:
    """One figure of the page: ``src`` is a data URI; ``alt`` and ``caption`` say what it shows."""

    src: str
    alt: str
    caption: str


def encode(figure: Figure, kind: str = "svg", dpi: int = 150) -> str:
    """A figure as a data URI (``svg`` or ``png``)."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@contextmanager
def _axes(size: tuple[float, float] = (4.8, 3.3)) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(_STYLE):
        # Figure, not pyplot: no global state, and the Agg canvas whatever the user's backend.
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.add_subplot()


def arm_labels(report: Mapping[str, Any]) -> dict[str, str]:
    """How each arm is called in legends and tables."""
    name = method(report)
    return {
        "before": "before training",
        "control": "control (SFT)",
        "corr_only": "correspondence only",
        "after": f"after {name}",
    }


def arms_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The arms that were probed, in telling order."""
    probe = report.get("probe") or {}
    return {name: probe[name] for name in ARMS if probe.get(name)}


def _floors(axes: Axes, arm: Mapping[str, Any]) -> None:
    axes.axhline(arm["static"], color="#4c9a6a", ls="--", lw=1.1, label="same place")
    axes.axhline(arm["chance"], color="#b04a4a", ls=":", lw=1.3, label="chance")


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2)


def _band(axes: Axes, x: Sequence[int], bounds: Sequence[Any] | None, colour: str) -> None:
    if bounds and all(bounds):
        low, high = zip(*bounds, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def pck_by_layer(report: Mapping[str, Any]) -> Picture | None:
    """Paper figure 3: PCK of every layer, with chance and the static predictor."""
    arms, labels = arms_of(report), arm_labels(report)
    if not arms:
        return None
    with _axes() as (figure, axes):
        for name, arm in arms.items():
            x = range(len(arm["pck_by_layer"]))
            axes.plot(x, arm["pck_by_layer"], color=COLOURS[name], marker=_MARKERS[name], ms=4,
                      label=labels[name])  # fmt: skip
            _band(axes, x, arm.get("pck_ci95_by_layer"), COLOURS[name])
        main = arms.get("after") or next(iter(arms.values()))
        axes.plot(main["layer"], main["peak_pck"], "o", ms=11, mfc="none", mec="#222", mew=1.2)
        _floors(axes, main)
        axes.set(xlabel="decoder layer", ylabel="PCK@2patch", ylim=(0, 1))
        if radius := main.get("settings", {}).get("radius_patches"):
            axes.set_ylabel(f"PCK@{radius:g}patch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure)
        src = encode(figure)
    told = "; ".join(
        f"{labels[n]} {number(a['peak_pck'])} at layer {a['layer']}" for n, a in arms.items()
    )
    return Picture(
        src,
        f"PCK by decoder layer. {told}. Chance {number(main['chance'])}, same place {number(main['static'])}.",
        f"Share of {main['n_anchors']} anchors in {main['n_pairs']} frame pairs whose best match lies "
        "within the radius; bands are 95 % intervals; the ring marks the layer chosen on validation clips.",
    )


def _confidence(arms: Mapping[str, Mapping[str, Any]]) -> str:
    settings = next(iter(arms.values())).get("settings") or {}
    if settings.get("confidence") == "softmax_max":
        return "the largest softmax weight over the other frame's tokens"
    return "the softmax weight, over the other frame's tokens, of those around the match"


def rho_by_layer(report: Mapping[str, Any]) -> Picture | None:
    """Correlation of a match's confidence with its correctness, per layer."""
    arms, labels = arms_of(report), arm_labels(report)
    drawn = {
        name: arm
        for name, arm in arms.items()
        if any(r is not None for r in arm.get("confidence_correlation_by_layer") or [])
    }
    if not drawn:
        return None
    with _axes() as (figure, axes):
        for name, arm in drawn.items():
            rho = [float("nan") if r is None else r for r in arm["confidence_correlation_by_layer"]]
            axes.plot(range(len(rho)), rho, color=COLOURS[name], marker=_MARKERS[name], ms=4,
                      label=labels[name])  # fmt: skip
            _band(axes, range(len(rho)), arm.get("rho_ci95_by_layer"), COLOURS[name])
        axes.axhline(0, color="#555", lw=0.8)
        axes.set(xlabel="decoder layer", ylabel="Pearson ρ")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure)
        src = encode(figure)
    told = "; ".join(
        f"{labels[n]} {number(a['confidence_correlation'])} at layer {a['layer']}"
        for n, a in drawn.items()
    )
    return Picture(
        src,
        f"Correlation of confidence with correctness by decoder layer. {told}.",
        f"Does the model know when its match is right? Confidence is {_confidence(drawn)}; bands are "
        "95 % intervals.",
    )


def pck_by_distance(report: Mapping[str, Any]) -> Picture | None:
    """PCK at each frame distance beside what the same place and chance give there."""
    arms, labels = arms_of(report), arm_labels(report)
    arms = {name: arm for name, arm in arms.items() if len(arm.get("by_distance") or {}) > 1}
    if not arms:
        return None
    main = arms.get("after") or next(iter(arms.values()))
    with _axes() as (figure, axes):
        for name, arm in arms.items():
            rows = sorted((int(d), row) for d, row in arm["by_distance"].items())
            axes.plot([d for d, _ in rows], [r["pck"] for _, r in rows], color=COLOURS[name],
                      marker=_MARKERS[name], ms=4, label=labels[name])  # fmt: skip
        rows = sorted((int(d), row) for d, row in main["by_distance"].items())
        x = [d for d, _ in rows]
        axes.plot(
            x, [r["static"] for _, r in rows], color="#4c9a6a", ls="--", lw=1.1, label="same place"
        )
        axes.plot(
            x, [r["chance"] for _, r in rows], color="#b04a4a", ls=":", lw=1.3, label="chance"
        )
        axes.set(xlabel="frame distance", ylabel="PCK", ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure)
        src = encode(figure)
    counts = ", ".join(f"{d}: {row['n']}" for d, row in rows)
    return Picture(
        src,
        "PCK by frame distance: "
        + ", ".join(f"{d}: {number(row['pck'])}" for d, row in rows)
        + ".",
        f"Each arm at its own layer. Anchors by distance: {counts}.",
    )


def temporal_robustness(report: Mapping[str, Any]) -> Picture | None:
    """PCK at each frame distance over that at the shortest one (the paper's diagnostic 3)."""
    arms, labels = arms_of(report), arm_labels(report)
    drawn = {
        n: a
        for n, a in arms.items()
        if len(a.get("temporal_robustness") or {}) > 1 and above_chance(a)
    }
    if not drawn:
        return None
    with _axes() as (figure, axes):
        for name, arm in drawn.items():
            rows = sorted((int(d), ratio) for d, ratio in arm["temporal_robustness"].items())
            axes.plot([d for d, _ in rows], [r for _, r in rows], color=COLOURS[name],
                      marker=_MARKERS[name], ms=4, label=labels[name])  # fmt: skip
        axes.axhline(1, color="#555", lw=0.8)
        axes.set(xlabel="frame distance Δt", ylabel="PCK(Δt) / PCK(shortest)")
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1] / 1.08, 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(figure)
        src = encode(figure)
    left_out = [labels[name] for name in arms if name not in drawn]
    note = (
        f" Not drawn, being near chance, where a ratio means nothing: {', '.join(left_out)}."
        if left_out
        else ""
    )
    told = "; ".join(
        f"{labels[n]} {number(a['temporal_robustness'][max(a['temporal_robustness'], key=int)])}"
        for n, a in drawn.items()
    )
    return Picture(
        src,
        f"Share of matching kept at the longest frame distance: {told}.",
        f"What is left of matching as frames lie further apart.{note}",
    )


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Series of ``log.jsonl``: name -> (step, value); a last line cut short by a kill is skipped."""
    series: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file():
        return series
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            continue
        for name, value in record.items():
            if isinstance(value, (int, float)):
                series.setdefault(name, []).append((record["step"], float(value)))
    return series


def _is_curve(name: str) -> bool:
    """The total and every raw term; not weighted copies, rates and times."""
    return name == "loss" or name.startswith("raw/")


def training_curves(logs: Mapping[str, Path], labels: Mapping[str, str]) -> Picture | None:
    """Every raw loss term against the step, one panel a term. ``logs``: arm -> ``log.jsonl``."""
    series = {arm: read_log(path) for arm, path in logs.items()}
    names = sorted({n for found in series.values() for n in found if _is_curve(n)})[:9]
    if not names:
        return None
    with mpl.rc_context({**_STYLE, "font.size": 9}):
        rows = (len(names) + 1) // 2 if len(names) > 1 else 1
        figure = Figure(figsize=(5.4, 0.4 + 1.9 * rows), layout="constrained")
        grid = figure.subplots(rows, min(len(names), 2), squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            for arm, found in series.items():
                if points := found.get(name):
                    x, y = zip(*points, strict=True)
                    window = max(1, len(y) // 40)
                    colour = COLOURS.get(arm, "#333")
                    axes.plot(x, y, color=colour, alpha=0.2, lw=0.7)
                    axes.plot(x, _smooth(y, window), color=colour, label=labels[arm], lw=1.4)
            axes.set_title(
                "total, weighted" if name == "loss" else name.removeprefix("raw/"), fontsize=9
            )
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        handles = {
            h.get_label(): h for axes in grid.flat for h in axes.get_legend_handles_labels()[0]
        }
        if len(handles) > 1:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        src = encode(figure)
    return Picture(
        src,
        f"Training curves of {', '.join(names)}.",
        "Raw loss terms by step (faint), smoothed (solid).",
    )


def _smooth(values: Sequence[float], window: int) -> list[float]:
    """Trailing mean."""
    sums, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        sums.append(total / min(i + 1, window))
    return sums
