"""Fits of a predicted depth to the true one: median scale, L1 scale, L1 scale and shift."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from spatialprior.eval.geometry.similarity import Array


def median_scale(predicted: Array, truth: Array) -> float:
    """Median of the truth over that of the prediction (``N`` each; CUT3R's per-image alignment).

    0 where the prediction's median is 0: no scale of it means anything.
    """
    middle = float(np.median(predicted))
    return float(np.median(truth)) / middle if middle else 0.0


def l1_scale(predicted: Array, truth: Array) -> float:
    """``argmin_s sum |s * predicted - truth|``.

    The exact (lower) weighted median of ``truth / predicted`` with weights ``|predicted|``. The suites of CUT3R
    and Pi3 come near the same minimum by iteratively reweighted least squares (Pi3: ten steps, which stop some
    percent short of it where a fifth of the pixels are gross outliers; benchmarks.md section 6).

    Args:
        predicted, truth: ``N``.
    """
    weight = np.abs(predicted)
    used = weight > 0
    if not used.any():
        return 0.0
    ratio, weight = truth[used] / predicted[used], weight[used]
    order = np.argsort(ratio, kind="stable")
    reached = np.cumsum(weight[order])
    return float(ratio[order[np.searchsorted(reached, reached[-1] / 2)]])


def l1_scale_shift(predicted: Array, truth: Array) -> tuple[float, float]:
    """``argmin_{s,t} sum |s * predicted + t - truth|``: least absolute deviations.

    For a given scale the best shift is a median of what remains, and the sum is convex in the scale, which a
    bounded search of one dimension therefore finds, to about 1e-8 of it (the suites run Adam on the same sum;
    benchmarks.md section 6).

    Args:
        predicted, truth: ``N``.
    """
    middle = float(np.median(predicted))
    centred = predicted - middle
    spread = float(np.abs(centred).sum())
    shift = float(np.median(truth))
    if spread == 0:
        return 0.0, shift

    def cost(scale: float) -> float:
        rest = truth - scale * centred
        return float(np.abs(rest - np.median(rest)).sum())

    # cost(s) >= |s| * spread - cost(0), so the minimum, at most cost(0), lies within this bound.
    bound = 2 * cost(0.0) / spread
    if bound == 0:
        return 0.0, shift
    found = minimize_scalar(
        cost, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-12 * bound}
    )
    scale = float(found.x)
    return scale, float(np.median(truth - scale * centred)) - scale * middle
