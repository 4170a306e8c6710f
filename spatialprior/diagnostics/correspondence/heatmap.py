"""A sweep of two settings as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spatialprior.diagnostics.correspondence.score import METRICS, PAIRS
from spatialprior.report.verdict import number


def heatmap(
    table: Mapping[str, Any],
    metric: str = "retrieval",
    pairs: str = "all",
    arm: str = "encoder",
) -> Figure:
    """One metric over the two settings of a sweep: the first downwards, the second to the right.

    Args:
        table: What ``sweep`` returned.
        metric: One of ``METRICS``.
        pairs: ``all`` or ``adjacent`` pairs of views.
        arm: ``encoder``, ``pixels`` or ``random``.

    Raises:
        ValueError: The sweep has no such number, or more than two settings.
    """
    axes = table["axes"]
    arms = [name for name in table["cells"][0]["scores"]["all"] if not name.startswith("vs_")]
    if metric not in METRICS or pairs not in PAIRS or arm not in arms or not 1 <= len(axes) <= 2:
        raise ValueError(
            f"heatmap of metric={metric}, pairs={pairs}, arm={arm} over {', '.join(axes)}: a figure "
            f"shows one or two settings, one of {', '.join(METRICS)}, of {' or '.join(PAIRS)} "
            f"pairs, of {', '.join(arms)}"
        )
    down, right = [*axes, None][:2]
    assert down is not None
    rows, cols = axes[down], axes[right] if right else [""]
    values = np.array(
        [cell["scores"][pairs][arm][metric]["mean"] for cell in table["cells"]], dtype=float
    ).reshape(len(rows), len(cols))
    # Figure, not pyplot: no global state.
    figure = Figure(figsize=(1.8 + 0.7 * len(cols), 1.6 + 0.45 * len(rows)), layout="constrained")
    drawing = figure.add_subplot()
    image = drawing.imshow(values, cmap="viridis", aspect="auto")
    drawing.set_yticks(range(len(rows)), [str(value) for value in rows])
    drawing.set_xticks(range(len(cols)), [str(value) for value in cols])
    drawing.set(ylabel=down, xlabel=right or "")
    middle = (values.min() + values.max()) / 2
    for (row, col), value in np.ndenumerate(values):
        colour = "black" if value > middle else "white"
        drawing.text(
            col, row, number(float(value), 3), ha="center", va="center", fontsize=8, color=colour
        )
    label = "retrieval accuracy" if metric == "retrieval" else metric
    if metric == "retrieval":
        chance = table["cells"][0]["scores"][pairs][arm]["chance"]["mean"]
        label += f" (chance {number(chance, 3)})"
    drawing.set_title(f"{arm}, {pairs} pairs of views", fontsize=9)
    figure.colorbar(image, ax=drawing, label=label)
    return figure
