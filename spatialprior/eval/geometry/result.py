"""The figures of a set of clips, with intervals, as ``report.json`` holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spatialprior.core.intervals import clustered_interval
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.samples import Samples
from spatialprior.eval.geometry.scene import SceneScores, Scores

_LOWER_IS_BETTER = (".abs_rel", ".rmse", ".ate", "_mean", "_median")


def summarise(scenes: Sequence[SceneScores], settings: GeometryEvalConfig) -> dict[str, Any]:
    """Weighted means over the samples of all clips, beside the trivial predictors on the same samples.

    Returns:
        ``figures``: name -> ``value``, ``ci95`` (95 %, clips resampled by ``source_id``; ``None`` with
        one source), ``n`` samples (images, frame pairs or clips), ``higher_is_better``, ``baseline``
        (constant depth, identical cameras), and for poses ``baseline_forward`` (cameras that only
        advance). ``value`` is ``None`` where no clip has a sample. ``settings``: those given, with
        ``sources`` and ``num_clips``. ``clips``: per clip its ids and figures. All of it JSON.

    Raises:
        ValueError: No scenes.
    """
    if not scenes:
        raise ValueError(
            "no clip was scored: geometry needs clips with depth, intrinsics and poses"
        )
    return {
        "figures": {name: _figure(scenes, name) for name in scenes[0].scores},
        "settings": {
            **settings.settings(),
            "num_clips": len(scenes),
            "sources": len({scene.source_id for scene in scenes}),
        },
        "clips": [
            {
                "clip_id": scene.clip_id,
                "source_id": scene.source_id,
                "figures": {name: samples.mean for name, samples in scene.scores.items()},
            }
            for scene in scenes
        ],
    }


def _figure(scenes: Sequence[SceneScores], name: str) -> dict[str, Any]:
    samples = _pooled([scene.scores for scene in scenes], name)
    clusters = [scene.source_id for scene in scenes for _ in scene.scores[name].values]
    interval = clustered_interval(samples.values, clusters, weights=samples.weights)
    figure = {
        "value": interval.mean if math.isfinite(interval.mean) else None,
        "ci95": interval.bounds,
        "n": interval.n,
        "higher_is_better": not name.endswith(_LOWER_IS_BETTER),
        "baseline": _pooled([scene.constant for scene in scenes], name).mean,
    }
    if name in scenes[0].forward:
        figure["baseline_forward"] = _pooled([scene.forward for scene in scenes], name).mean
    return figure


def _pooled(scores: Sequence[Scores], name: str) -> Samples:
    return Samples(
        np.concatenate([one[name].values for one in scores]),
        np.concatenate([one[name].weights for one in scores]),
    )
