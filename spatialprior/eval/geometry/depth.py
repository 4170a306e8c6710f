"""Depth scores after three alignments, as CUT3R and Pi3 take them (benchmarks.md section 6, "Depth")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spatialprior.eval.geometry.alignment import l1_scale, l1_scale_shift, median_scale
from spatialprior.eval.geometry.samples import Samples
from spatialprior.eval.geometry.similarity import Array

ALIGNMENTS = ("median", "scale", "scale_shift")
METRICS = ("abs_rel", "delta1", "delta2", "delta3", "rmse")


def depth_metrics(predicted: Array, truth: Array) -> dict[str, float]:
    """Scores of aligned depths (``N`` each, N >= 1, metres, truth positive).

    AbsRel = mean |p - g| / g; delta n = share with max(p/g, g/p) < 1.25**n; RMSE in metres. A depth at or below
    zero (a shift may cause one) is never within a delta, where the bare ratio would let a negative one pass.
    """
    error = predicted - truth
    positive = predicted > 0
    safe = np.where(positive, predicted, 1.0)
    ratio = np.where(positive, np.maximum(safe / truth, truth / safe), np.inf)
    return {
        "abs_rel": float(np.mean(np.abs(error) / truth)),
        **{f"delta{n}": float(np.mean(ratio < 1.25**n)) for n in (1, 2, 3)},
        "rmse": float(np.sqrt(np.mean(np.square(error)))),
    }


def align_depth(predicted: Array, truth: Array, alignment: str) -> Array:
    """``predicted`` (``N``) in the truth's metres, by one fit over all of it.

    Raises:
        ValueError: No such alignment.
    """
    if alignment == "median":
        return median_scale(predicted, truth) * predicted
    if alignment == "scale":
        return l1_scale(predicted, truth) * predicted
    if alignment == "scale_shift":
        scale, shift = l1_scale_shift(predicted, truth)
        return scale * predicted + shift
    raise ValueError(f"no depth alignment {alignment!r}: choose one of {', '.join(ALIGNMENTS)}")


def score_depth(predicted: Array, truth: Array, valid: NDArray[np.bool_]) -> dict[str, Samples]:
    """Every depth figure of one clip.

    ``median`` is fitted image by image and each image is a sample; ``scale`` and ``scale_shift`` are
    fitted once and the clip is one sample. A sample weighs as much as it has valid pixels; images without
    any are left out.

    Args:
        predicted, truth: ``V H W``.
        valid: ``V H W``.
    """
    images = [(p[v], t[v]) for p, t, v in zip(predicted, truth, valid, strict=True) if v.any()]
    whole = [(predicted[valid], truth[valid])] if images else []
    scores: dict[str, Samples] = {}
    for alignment in ALIGNMENTS:
        pairs = images if alignment == "median" else whole
        rows = [depth_metrics(align_depth(p, t, alignment), t) for p, t in pairs]
        weights = np.array([float(len(t)) for _, t in pairs])
        for metric in METRICS:
            values = np.array([row[metric] for row in rows])
            scores[f"depth.{alignment}.{metric}"] = Samples(values, weights)
    return scores
