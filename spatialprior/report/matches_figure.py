"""Paper figure 4: matches as coloured flow over two frames, and a heatmap of one query point.

Input are the arrays of ``pictures/<arm>.npz`` in the run folder (written by the probe's traces).
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spatialprior.report.figures import Picture, encode

Trace = dict[str, NDArray[Any]]
_GAP = 0.06  # between the two frames, share of the width


def read_traces(folder: Path) -> dict[str, Trace]:
    """Traces by arm, in telling order; empty where there are none."""
    found: dict[str, Trace] = {}
    for arm in ("before", "control", "corr_only", "after"):
        path = folder / f"{arm}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                found[arm] = {name: arrays[name] for name in arrays.files}
    return found


def position_colours(
    points: NDArray[Any], width: int, height: int
) -> list[tuple[float, float, float]]:
    """A colour for each place in a frame: hue runs from left to right, lightness from top to bottom."""
    return [
        colorsys.hls_to_rgb(
            0.83 * min(max(x / width, 0), 1), 0.68 - 0.3 * min(max(y / height, 0), 1), 0.9
        )
        for x, y in points
    ]


def matches_picture(traces: Mapping[str, Trace], labels: Mapping[str, str]) -> Picture | None:
    """One row an arm: the asking frame left, the answering frame right."""
    if not traces:
        return None
    first = next(iter(traces.values()))
    height, width = first["images"].shape[1:3]
    rows = len(traces)
    figure = Figure(
        figsize=(6.4, (6.4 / (2 + _GAP) * height / width + 0.32) * rows), layout="constrained"
    )
    grid = figure.subplots(rows, 1, squeeze=False)[:, 0]
    told = []
    for axes, (arm, trace) in zip(grid, traces.items(), strict=True):
        height, width = trace["images"].shape[1:3]
        shift = width * (1 + _GAP)
        for view, left in zip(trace["pair"].tolist(), (0.0, shift), strict=True):
            # Grey and pale, so that colour means one thing only.
            grey = 90 + trace["images"][view].mean(-1) * (165 / 255)
            axes.imshow(grey, extent=(left, left + width, height, 0), cmap="gray", vmin=0, vmax=255)
        colours = position_colours(trace["points_a"], width, height)
        for i in np.argsort(trace["correct"]).tolist():  # right matches on top
            (xa, ya), (xb, yb) = trace["points_a"][i], trace["points_b"][i]
            right = bool(trace["correct"][i])
            style = {"lw": 1.3, "alpha": 0.9} if right else {"lw": 0.5, "alpha": 0.25}
            axes.plot([xa, xb + shift], [ya, yb], color=colours[i], **style)
            axes.plot(xa, ya, "o", ms=5, color=colours[i], mec="white", mew=0.7)
            mark = {"marker": "o", "ms": 6, "mec": "white"} if right else {"marker": "x", "ms": 5}
            axes.plot(xb + shift, yb, color=colours[i], ls="", mew=0.8 if right else 1.6, **mark)
        share = f"{int(trace['correct'].sum())} of {len(trace['correct'])} right"
        told.append(f"{labels[arm]}: {share}")
        axes.set_title(
            f"{labels[arm]} · layer {int(trace['layer'])} · {share}", fontsize=10, loc="left"
        )
        axes.set(xlim=(0, shift + width), ylim=(height, 0))
        axes.set_axis_off()
    return Picture(
        encode(figure, "png"),
        "Matches between two frames. " + "; ".join(told) + ".",
        "One clip, as an example. A point's colour is its place in the left frame. In the right frame, discs "
        "with strong lines are correct matches, crosses with faint lines wrong ones.",
    )


def heatmap_picture(traces: Mapping[str, Trace], labels: Mapping[str, str]) -> Picture | None:
    """One row an arm: the query in its frame, then its similarity over every other frame."""
    if not traces:
        return None
    first = next(iter(traces.values()))
    views, height, width = first["images"].shape[:3]
    asking = int(first["pair"][0])
    others = [v for v in range(views) if v != asking][:4]
    columns = 1 + len(others)
    side = 6.4 / columns
    figure = Figure(
        figsize=(6.4, (side * height / width + 0.3) * len(traces)), layout="constrained"
    )
    grid = figure.subplots(len(traces), columns, squeeze=False)
    for row, (arm, trace) in zip(grid, traces.items(), strict=True):
        extent = (0, width, height, 0)
        row[0].imshow(trace["images"][asking], extent=extent)
        row[0].plot(*trace["query"], "*", ms=13, color="#ffe14d", mec="black", mew=0.8)
        row[0].set_title(labels[arm], fontsize=9, loc="left")
        for axes, view in zip(row[1:], others, strict=True):
            heat = trace["heat"][view]
            grey = trace["images"][view].mean(-1)
            axes.imshow(grey, extent=extent, cmap="gray", vmin=0, vmax=255)
            strength = heat / max(float(heat.max()), 1e-12)
            axes.imshow(
                strength, extent=extent, cmap="inferno", alpha=0.15 + 0.7 * strength, vmin=0, vmax=1
            )
            if np.isfinite(trace["query_truth"][view]).all():
                axes.plot(
                    *trace["query_truth"][view], "o", ms=12, mfc="none", mec="#35e0ff", mew=1.6
                )
            axes.set_title(f"frame {view}, peak {float(heat.max()):.2f}", fontsize=8, loc="left")
        for axes in row:
            axes.set(xlim=(0, width), ylim=(height, 0))
            axes.set_axis_off()
    return Picture(
        encode(figure, "png"),
        f"Similarity of one point of frame {asking} (star) to the tokens of {len(others)} other frames.",
        "The star asks; brightness is the softmax over each frame's tokens, scaled to its own peak; the ring "
        "is the true place (no ring: hidden or out of view).",
    )
