"""Predicted against true depth of one clip: view, truth, prediction and error, one row a view.

Input are the arrays of ``pictures/geometry_<arm>.npz``; the prediction is aligned to the truth already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spatialprior.report.figures import Picture, encode
from spatialprior.report.geometry import Scene
from spatialprior.report.verdict import number

MAX_VIEWS = 6
_NO_DEPTH = "#d5d9de"  # pale grey: in neither colour map
_LEAST_ERROR_SCALE = 0.05  # so that a nearly exact prediction does not show rounding as structure


def relative_error(scene: Scene) -> NDArray[Any]:
    """``|predicted - true| / true`` of each pixel ``V H W``; NaN where truth or prediction is missing."""
    true, predicted = scene["true_depth"].astype(float), scene["pred_depth"].astype(float)
    known = scene["valid"].astype(bool) & (true > 0) & np.isfinite(true) & np.isfinite(predicted)
    error: NDArray[Any] = np.full(true.shape, np.nan)
    error[known] = np.abs(predicted - true)[known] / true[known]
    return error


def depth_picture(scene: Scene, label: str) -> Picture:
    """The figure of one arm; ``label`` is how the arm is called."""
    errors = relative_error(scene)
    views, height, width = errors.shape
    shown = min(views, MAX_VIEWS)
    true = np.where(np.isnan(errors), np.nan, scene["true_depth"])[:shown]
    predicted = np.where(np.isfinite(scene["pred_depth"]), scene["pred_depth"], np.nan)[:shown]
    # The truth alone sets the scale, so that one wild prediction does not flatten every map.
    low, high = _range(true)
    worst = max(_range(errors[:shown])[1], _LEAST_ERROR_SCALE)
    depth_map = colormaps["viridis"].with_extremes(bad=_NO_DEPTH)
    error_map = colormaps["magma"].with_extremes(bad=_NO_DEPTH)

    tall = 1.55 * height / width
    figure = Figure(figsize=(6.4, (tall + 0.25) * shown + 0.7), layout="constrained")
    # The scales have a row of their own: beside the maps they would take room from some columns only.
    grid = figure.add_gridspec(shown + 1, 4, height_ratios=[*[tall] * shown, 0.08])
    told: list[str] = []
    depth_image: Any = None
    error_image: Any = None
    for view in range(shown):
        row = [figure.add_subplot(grid[view, column]) for column in range(4)]
        known = errors[view][~np.isnan(errors[view])]
        told.append(number(float(known.mean()), 3) if known.size else "–")
        row[0].imshow(scene["images"][view])
        row[1].imshow(true[view], cmap=depth_map, vmin=low, vmax=high)
        depth_image = row[2].imshow(predicted[view], cmap=depth_map, vmin=low, vmax=high)
        error_image = row[3].imshow(errors[view], cmap=error_map, vmin=0, vmax=worst)
        row[0].set_title(f"view {view}", fontsize=8, loc="left")
        row[1].set_title("true depth", fontsize=8, loc="left")
        row[2].set_title("predicted", fontsize=8, loc="left")
        row[3].set_title(f"AbsRel {told[-1]}", fontsize=8, loc="left")
        for axes in row:
            axes.set_axis_off()
    for image, columns, extend, name in (
        (depth_image, slice(1, 3), "both", "depth, m"),
        (error_image, slice(3, 4), "max", "error / true depth"),
    ):
        place = figure.add_subplot(grid[shown, columns])
        bar = figure.colorbar(image, cax=place, orientation="horizontal", extend=extend)
        bar.set_label(name, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    some = f" The first {shown} of {views} views." if shown < views else ""
    return Picture(
        encode(figure, "png"),
        f"True and predicted depth, {label}. AbsRel by view: {', '.join(told)}.",
        f"{label[0].upper()}{label[1:]}: one clip, as an example, aligned to the truth. One colour scale for "
        f"true and predicted depth; at the right the error as a share of the true depth, and its mean over "
        f"the view (AbsRel). Grey: no true depth.{some}",
    )


def _range(values: NDArray[Any]) -> tuple[float, float]:
    """Second and 98th percentile of what is known; (0, 1) where nothing is."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, (2, 98))
    return float(low), float(max(high, low + 1e-6))
