"""Soft-argmax depth consistency, GASP section on the depth loss.

``d_hat_i = sum_j A_ij d_j`` with ``A_i = softmax_j(<e_i, e_j>/tau)`` over the target frame, and
``|d_i - d_hat_i| / (d_i + d_hat_i + eps)``: it regularises the matching and is free of the depth's scale.
Patches without depth drop out: the mean is taken over those that have it.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6


def depth_values(depth: Tensor, known: Tensor) -> Tensor:
    """What :func:`~spatialprior.objectives.soft_match.soft_match` is to average for :func:`expected_depth`.

    Args:
        depth: ``P N``, depth at the patches' centres in the target camera, metres (or any unit).
        known: ``P N`` bool.

    Returns:
        ``P N 2``: depth (0 where unknown), and 1 where known.
    """
    return torch.stack([depth.masked_fill(~known, 0.0), known.to(depth.dtype)], dim=-1)


def expected_depth(means: Tensor) -> Tensor:
    """``d_hat``, ``P A``, from the averages ``P A 2`` of :func:`depth_values`."""
    return means[..., 0] / means[..., 1].clamp(min=EPS)


def depth_consistency(expected: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
    """Summed relative depth error of the valid anchors.

    Args:
        expected: ``P A``, depth that the matching distribution expects.
        depth: ``P A``, true depth of the match in the target camera.
        valid: ``P A`` bool, anchors with a visible match and at least one patch of known depth.
    """
    truth = depth.masked_fill(~valid, 1.0).to(expected.dtype)
    error = (truth - expected).abs() / (truth + expected + EPS)
    return error.masked_fill(~valid, 0.0).sum()
