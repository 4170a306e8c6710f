"""Depth, camera pose and points of a run's arms: a table, and what it says in a sentence.

Reads ``report["geometry"]``: arm -> ``figures`` (name -> ``value, ci95, n, higher_is_better, baseline``) and
``settings``. Names are those of the geometry evaluation, ``depth.median.abs_rel`` for instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialprior.report.verdict import Statement, number, with_interval

Scene = dict[str, NDArray[Any]]
METHOD = "G²VLM-style, re-implementation"
LABEL = f"{METHOD}; not verified against the official code"
_ARMS = {"geometry": "after the geometry phase", "after": "after training"}
_GROUPS = {"depth": "Depth", "pose": "Camera pose", "points": "Points"}
_TRIVIAL = {"depth": "best constant", "pose": "all cameras in one place"}
_DIGITS = 3

_METRICS = {
    "abs_rel": "AbsRel",
    "delta1": "δ < 1.25",
    "delta2": "δ < 1.25²",
    "delta3": "δ < 1.25³",
    "rmse": "RMSE, m",
    "ate": "ATE, m",
    "acc_mean": "accuracy, mean, m",
    "acc_median": "accuracy, median, m",
    "comp_mean": "completeness, mean, m",
    "comp_median": "completeness, median, m",
    "nc": "normal consistency",
}
_VARIANTS = {
    "median": "median aligned",
    "scale": "scale aligned",
    "scale_shift": "scale and shift aligned",
    "vggt": "VGGT's protocol",
    "pi3": "π³'s protocol",
}


def arms_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Arms whose geometry was measured, the geometry phase first and the end of training last."""
    found = {n: r for n, r in (report.get("geometry") or {}).items() if r and r.get("figures")}
    order = {"geometry": 0, "after": 2}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 1)))


def arm_label(arm: str) -> str:
    """How an arm is called in the table and in captions."""
    return _ARMS.get(arm, arm.replace("_", " "))


def read_scenes(folder: Path, arms: Iterable[str]) -> dict[str, Scene]:
    """Arrays of ``geometry_<arm>.npz`` by arm, ``images`` as ``V H W 3``; arms without one are left out."""
    found: dict[str, Scene] = {}
    for arm in arms:
        path = folder / f"geometry_{arm}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                found[arm] = {name: arrays[name] for name in arrays.files}
            found[arm]["images"] = found[arm]["images"].transpose(0, 2, 3, 1)
    return found


def metric_label(name: str) -> str:
    """``depth.median.abs_rel`` as ``AbsRel, median aligned``; parts without a word stay as they are."""
    _, *variant, metric = name.split(".")
    if metric not in _METRICS and metric[:3] in ("rra", "rta", "auc") and metric[3:].isdigit():
        metric = f"{metric[:3].upper()}@{metric[3:]}°"
    return ", ".join([_METRICS.get(metric, metric), *(_VARIANTS.get(v, v) for v in variant)])


def beats_trivial(figure: Mapping[str, Any]) -> bool | None:
    """Whether the 95 % interval lies wholly on the better side of the trivial predictors; ``None``: unknown."""
    bounds, floors = figure.get("ci95"), _floors(figure)
    if not floors or not bounds or None in bounds:
        return None
    if figure["higher_is_better"]:
        return bool(bounds[0] > max(floors))
    return bool(bounds[1] < min(floors))


def _floors(figure: Mapping[str, Any]) -> list[float]:
    """What trivial predictors get: the group's own, and of poses also cameras that only advance."""
    found = (figure.get("baseline"), figure.get("baseline_forward"))
    return [value for value in found if value is not None]


def _trivial(figure: Mapping[str, Any]) -> str:
    text = number(figure.get("baseline"), _DIGITS)
    forward = figure.get("baseline_forward")
    return text if forward is None else f"{text}; advancing {number(forward, _DIGITS)}"


def tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table a group: ``title`` and ``rows`` with a cell for each arm, in the order of the figures."""
    arms = arms_of(report)
    names = list(dict.fromkeys(name for arm in arms.values() for name in arm["figures"]))
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in (*_GROUPS.values(), "Other")}
    for name in names:
        found = [arm["figures"].get(name) for arm in arms.values()]
        known = [figure for figure in found if figure]
        if not known:
            continue
        kind = name.split(".")[0]
        floor = in_common(_trivial(f) for f in known)
        groups[_GROUPS.get(kind, "Other")].append(
            {
                "name": metric_label(name),
                "better": "higher" if known[0]["higher_is_better"] else "lower",
                "cells": [_cell(figure) for figure in found],
                "trivial": floor,
                "n": in_common(str(f.get("n", "–")) for f in known),
            }
        )
    trivial = {title: _TRIVIAL.get(kind, "") for kind, title in _GROUPS.items()}
    return [
        {"title": title, "trivial": trivial.get(title, ""), "rows": rows}
        for title, rows in groups.items()
        if rows
    ]


def _cell(figure: Mapping[str, Any] | None) -> dict[str, Any]:
    if not figure:
        return {"text": "–", "beats": None}
    text = with_interval(figure.get("value"), figure.get("ci95"), _DIGITS)
    return {"text": text, "beats": beats_trivial(figure)}


def in_common(values: Iterable[str]) -> str:
    """One value where all arms share it, else all of them in their order."""
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else " / ".join(listed)


def geometry_statements(report: Mapping[str, Any]) -> list[Statement]:
    """One finding an arm: AbsRel of depth and AUC@30 of pose beside the trivial predictors."""
    return [_statement(arm, found["figures"]) for arm, found in arms_of(report).items()]


def _statement(arm: str, figures: Mapping[str, Mapping[str, Any]]) -> Statement:
    told: dict[str, str] = {}
    beaten: dict[str, bool | None] = {}
    for kind, metric in (("depth", "abs_rel"), ("pose", "auc30")):
        # The first alignment or protocol in the order of the figures.
        names = [n for n in figures if n.startswith(f"{kind}.") and n.endswith(f".{metric}")]
        if names:
            figure = figures[names[0]]
            value = with_interval(figure.get("value"), figure.get("ci95"), _DIGITS)
            told[kind] = f"{metric_label(names[0])}: {value}; {_TRIVIAL[kind]} {_trivial(figure)}"
            beaten[kind] = beats_trivial(figure)
    where = f"{arm_label(arm)} ({METHOD})"
    text = "".join(f"{part}. " for part in told.values()).rstrip()
    if not beaten or None in beaten.values():
        lead = f"Geometry {where}: not compared with trivial predictors throughout."
        return Statement("neutral", lead, text)
    won = [_GROUPS[kind].lower() for kind, verdict in beaten.items() if verdict]
    lost = [_GROUPS[kind].lower() for kind, verdict in beaten.items() if not verdict]
    if not lost:
        lead = f"Geometry {where} beats trivial predictors: {' and '.join(won)}."
        return Statement("good", lead, text)
    rest = f"; {' and '.join(won)} does" if won else ""
    lead = f"Geometry {where}: {' and '.join(lost)} not shown to beat a trivial predictor{rest}."
    return Statement("bad", lead, text)
