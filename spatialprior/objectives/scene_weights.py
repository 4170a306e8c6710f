"""How the losses on the geometry of a clip add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spatialprior.objectives.scale import MAX_POINTS

Losses = dict[str, tuple[Tensor, float]]
"""Name of a term to its sum (differentiable) and its count."""


@dataclass
class SceneLossConfig:
    """Weights of the terms of :func:`~spatialprior.objectives.scene.scene_losses`.

    Source: G²VLM (arXiv 2511.21688), g2vlm.md section 3; [P] is the paper, [C] the code released with it. A
    weight of 0 leaves the term out.

    Attributes:
        points: Local point maps. [P, C] 1.
        global_points: Points in the first view's frame, where the model predicts them. [C] 1, absent from the
            paper's equation.
        normals: Surface normals. [P, C] 1; [C] for a list of data sets alone: set 0 where the depth is noisy.
        camera: Relative poses, that is rotation + ``translation`` · translation. [P, C] 0.2.
        translation: λ_t, weight of the translation against the rotation. [P] 200; [C] 100.
        confidence: Confidence, with sky. [C] 0.05, in a phase of its own with the rest frozen; whoever trains
            it along with the rest detaches what it reads.
        confidence_error: Weighted error below which a point counts as right. [C] 0.02.
        max_points: Points that the scale is fitted to. [C] 4096.
        spike: A clip whose weighted loss is above this adds zero, see :func:`guard_spikes`; 0 for no such
            guard. [P] 10; [C] commented out. Off unless asked for: an untrained model may start above it, and
            would never start to learn.
    """

    points: float = 1.0
    global_points: float = 1.0
    normals: float = 1.0
    camera: float = 0.2
    translation: float = 200.0
    confidence: float = 0.05
    confidence_error: float = 0.02
    max_points: int = MAX_POINTS
    spike: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if self.max_points < 1:
            raise ValueError(f"max_points must be 1 or more, got {self.max_points}")

    def weights(self) -> dict[str, float]:
        """Factor of each term's mean in the total, for the terms that are not left out."""
        weights = {
            "points": self.points,
            "global_points": self.global_points,
            "normals": self.normals,
            "rotation": self.camera,
            "translation": self.camera * self.translation,
            "confidence": self.confidence,
            "sky": self.confidence,
        }
        return {name: weight for name, weight in weights.items() if weight}


def weighted_total(losses: Losses, weights: Mapping[str, float]) -> Tensor:
    """Weighted sum of the means of one clip's terms."""
    means = [weights[name] * loss / max(count, 1.0) for name, (loss, count) in losses.items()]
    return torch.stack(means).sum()


def guard_spikes(losses: Losses, weights: Mapping[str, float], threshold: float) -> Losses:
    """The same losses, all zero (gradients too) where their weighted total is above ``threshold``.

    The counts stay, so that such a clip counts as one without error. A total that is not finite is left
    alone: it is an error to be reported, and not a spike.
    """
    total = weighted_total(losses, weights).detach()
    spike = (total > threshold) & torch.isfinite(total)
    return {name: (loss.masked_fill(spike, 0.0), count) for name, (loss, count) in losses.items()}
