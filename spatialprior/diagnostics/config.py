"""Settings of the probe. The paper leaves several open, so all are printed with each number."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_CHOICES = {
    "pooling": ("sum", "mean", "max", "softmax_mean"),
    "direction": ("causal", "forward", "both"),
    "norm": ("l2", "linf"),
    "confidence": ("softmax_near", "softmax_max"),
}


@dataclass
class ProbeConfig:
    """How matches are read off queries and keys.

    Attributes:
        pooling: Over attention heads: ``sum`` (one dot product of all heads, Q K^T as written), ``mean``
            (the same matches, a flatter softmax) or ``max`` of the per-head similarity, or
            ``softmax_mean`` (mean of the per-head softmax over the target frame's tokens).
        rope: ``False``: queries and keys right after their projections (the paper's "post-projection");
            ``True``: after the rotary embedding, as attention uses them. A run reports both.
        direction: ``causal`` (queries of the later view, keys of the earlier: what attention
            computes), ``forward`` (queries of the earlier view, keys of the later) or ``both``.
            Views are ordered as the decoder reads them.
        norm: Distance to the true match, in patch units: ``l2`` or ``linf``.
        radius_patches: A match is correct within this distance (the paper's PCK@2patch).
        confidence: Of the softmax over the target frame's tokens: ``softmax_near``, the weight of all
            tokens within the radius of the best one (what would count as the same match), or
            ``softmax_max``, the best one's alone.
        anchor_grid: Anchors are token centres on at most this many rows and columns of a frame.
        tolerance_abs, tolerance_rel: Depths closer than ``max(abs metres, rel * depth)`` count as
            one surface when the true matches are made.
        val_clips: Clips on which the layer is chosen.
        test_clips: Clips from which the figures are taken; 0 leaves the probe out.
        batch_clips: Clips per forward pass.
    """

    pooling: str = "sum"
    rope: bool = False
    direction: str = "causal"
    norm: str = "l2"
    radius_patches: float = 2.0
    confidence: str = "softmax_near"
    anchor_grid: int = 8
    tolerance_abs: float = 0.03
    tolerance_rel: float = 0.03
    val_clips: int = 32
    test_clips: int = 64
    batch_clips: int = 4

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"probe.{name}={value!r}: choose one of {', '.join(choices)}")
        if self.test_clips < 0:
            raise ValueError(f"probe.test_clips={self.test_clips}: must not be negative")
        for name in ("anchor_grid", "val_clips", "batch_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"probe.{name}={getattr(self, name)}: must be at least 1")
        if not self.radius_patches > 0:
            raise ValueError(f"probe.radius_patches={self.radius_patches}: must be positive")

    def settings(self) -> dict[str, Any]:
        """What defines a number, for the report (clip counts and batch size do not)."""
        return {
            k: v
            for k, v in asdict(self).items()
            if k not in ("val_clips", "test_clips", "batch_clips")
        }
