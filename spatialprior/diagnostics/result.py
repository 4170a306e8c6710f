"""What a probe found: the scores of all anchors, and the figures made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spatialprior.core.intervals import Interval, clustered_correlation, clustered_interval

_FEWEST_SOURCES = 5
"""With fewer scenes an interval clustered by scene says nothing; clips are the clusters then."""


@dataclass(frozen=True)
class Samples:
    """Scores of ``n`` anchors (one anchor in one frame pair is one sample) in ``L`` layers.

    Attributes:
        correct: ``n L`` bool, whether the best token lies within the radius of the truth.
        confidence: ``n L`` float32.
        chance: ``n`` float32, share of tokens within the radius.
        static: ``n`` bool, whether the same place lies within the radius.
        distance: ``n`` long, frame distance.
        pair: ``n`` long, which frame pair.
        clip_ids, source_ids: ``n`` strings.
    """

    correct: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    chance: NDArray[np.float32]
    static: NDArray[np.bool_]
    distance: NDArray[np.int64]
    pair: NDArray[np.int64]
    clip_ids: list[str]
    source_ids: list[str]

    @classmethod
    def of_batch(cls, *, clip_ids: list[str], source_ids: list[str], **tensors: Tensor) -> Samples:
        arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        return cls(clip_ids=clip_ids, source_ids=source_ids, **arrays)

    @classmethod
    def concatenate(cls, batches: Sequence[Samples]) -> Samples:
        """All samples; frame pairs keep distinct numbers.

        Raises:
            ValueError: There is no sample at all.
        """
        if not any(len(batch.chance) for batch in batches):
            raise ValueError(
                "the probe found no anchor that is visible in another frame: "
                "give clips of at least two overlapping views with depth and poses"
            )
        shift, pairs = 0, []
        for batch in batches:
            pairs.append(batch.pair + shift)
            shift = int(pairs[-1].max(initial=shift - 1)) + 1
        return cls(
            correct=np.concatenate([b.correct for b in batches]),
            confidence=np.concatenate([b.confidence for b in batches]),
            chance=np.concatenate([b.chance for b in batches]),
            static=np.concatenate([b.static for b in batches]),
            distance=np.concatenate([b.distance for b in batches]),
            pair=np.concatenate(pairs),
            clip_ids=[name for b in batches for name in b.clip_ids],
            source_ids=[name for b in batches for name in b.source_ids],
        )


@dataclass(frozen=True)
class ProbeResult:
    """Figures of one model on one set of clips; every list is by decoder layer.

    Attributes:
        pck_by_layer: Mean PCK over all samples; pck_ci95_by_layer: its interval, ``None`` where
            unknown.
        confidence_correlation_by_layer: Pearson rho of confidence and correctness, ``None`` where
            either is constant; rho_ci95_by_layer: its interval.
        pck_by_distance: Frame distance -> PCK of every layer; by_distance: frame distance -> ``n``,
            ``chance``, ``static`` (all frame distances are those present).
        pck_moved_by_layer: PCK where the same place is wrong; ``None`` without any such sample.
        chance: Mean share of tokens within the radius; static: PCK of predicting the same place.
        n_anchors: Samples; n_pairs: frame pairs; n_moved: samples where static fails.
        clustered_by: ``source`` (scene or sequence) or ``clip``: the unit of the intervals.
        settings: The probe's settings.
    """

    pck_by_layer: list[float]
    pck_ci95_by_layer: list[list[float] | None]
    confidence_correlation_by_layer: list[float | None]
    rho_ci95_by_layer: list[list[float] | None]
    pck_by_distance: dict[int, list[float]]
    by_distance: dict[int, dict[str, float]]
    pck_moved_by_layer: list[float] | None
    chance: float
    static: float
    n_anchors: int
    n_pairs: int
    n_clips: int
    n_moved: int
    n_sources: int
    clustered_by: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_samples(cls, samples: Samples, settings: dict[str, Any]) -> ProbeResult:
        num_sources = len(set(samples.source_ids))
        by_source = num_sources >= _FEWEST_SOURCES
        clusters = samples.source_ids if by_source else samples.clip_ids
        layers = range(samples.correct.shape[1])
        pck = [clustered_interval(samples.correct[:, i], clusters) for i in layers]
        rho = [
            clustered_correlation(samples.confidence[:, i], samples.correct[:, i], clusters)
            for i in layers
        ]
        moved = ~samples.static
        members = {int(d): samples.distance == d for d in np.unique(samples.distance)}
        return cls(
            pck_by_layer=[interval.mean for interval in pck],
            pck_ci95_by_layer=[interval.bounds for interval in pck],
            confidence_correlation_by_layer=[_finite(interval) for interval in rho],
            rho_ci95_by_layer=[interval.bounds for interval in rho],
            pck_by_distance={d: samples.correct[at].mean(0).tolist() for d, at in members.items()},
            by_distance={
                d: {
                    "n": int(at.sum()),
                    "chance": float(samples.chance[at].mean()),
                    "static": float(samples.static[at].mean()),
                }
                for d, at in members.items()
            },
            pck_moved_by_layer=samples.correct[moved].mean(0).tolist() if moved.any() else None,
            chance=float(samples.chance.mean()),
            static=float(samples.static.mean()),
            n_anchors=len(samples.chance),
            n_pairs=len(np.unique(samples.pair)),
            n_clips=len(set(samples.clip_ids)),
            n_moved=int(moved.sum()),
            n_sources=num_sources,
            clustered_by="source" if by_source else "clip",
            settings=settings,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeResult:
        """Back from ``dataclasses.asdict`` by way of JSON, where frame distances became text."""
        by_number = {
            name: {int(d): figures for d, figures in values[name].items()}
            for name in ("pck_by_distance", "by_distance")
        }
        return cls(**{**values, **by_number})

    def temporal_robustness(self, layer: int) -> dict[int, float]:
        """PCK at each frame distance over that at the shortest one (the paper's distance 1)."""
        shortest = self.pck_by_distance[min(self.pck_by_distance)][layer]
        if shortest == 0:
            return {}
        return {d: pck[layer] / shortest for d, pck in sorted(self.pck_by_distance.items())}

    def at_layer(self, layer: int) -> dict[str, Any]:
        """One arm of ``report.json``'s ``probe``; ``layer`` (chosen elsewhere) is its headline."""
        report = asdict(self)
        by_distance = {
            str(d): {"pck": pck[layer], **self.by_distance[d]}
            for d, pck in sorted(self.pck_by_distance.items())
        }
        return {
            **report,
            "layer": layer,
            "peak_pck": self.pck_by_layer[layer],
            "ci95": self.pck_ci95_by_layer[layer],
            "pck_moved": self.pck_moved_by_layer[layer] if self.pck_moved_by_layer else None,
            "confidence_correlation": self.confidence_correlation_by_layer[layer],
            "temporal_robustness": {
                str(d): ratio for d, ratio in self.temporal_robustness(layer).items()
            },
            "by_distance": by_distance,
            "pck_by_distance": {str(d): pck for d, pck in sorted(self.pck_by_distance.items())},
        }


def select_layer(validation: ProbeResult) -> int:
    """The layer of highest PCK on validation clips (the first of equals)."""
    return int(np.argmax(validation.pck_by_layer))


def _finite(interval: Interval) -> float | None:
    return interval.mean if math.isfinite(interval.mean) else None
