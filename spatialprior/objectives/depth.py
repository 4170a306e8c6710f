"""Soft-argmax depth consistency, GASP section on the depth loss.

``d_hat_i = sum_j A_ij d_j`` with ``A_i = softmax_j(<e_i, e_j>/tau)`` over the target frame, and
``|d_i - d_hat_i| / (d_i + d_hat_i + eps)``: it regularises the matching and is free of the depth's scale.
"""

from __future__ import annotations

from torch import Tensor


def depth_consistency(
    probabilities: Tensor,
    candidate_depth: Tensor,
    candidate_valid: Tensor,
    depth: Tensor,
    valid: Tensor,
    eps: float = 1e-6,
) -> Tensor:
    """Summed relative depth error of the valid anchors.

    Args:
        probabilities: ``P A N``, matching distribution over the target frame's patches.
        candidate_depth: ``P N``, depth at the patches' centres in the target camera, metres (or any unit).
        candidate_valid: ``P N`` bool, where that depth is known; the distribution is renormalised over these.
        depth: ``P A``, true depth of the match in the target camera.
        valid: ``P A`` bool, anchors with a visible match and at least one candidate of known depth.
        eps: Keeps the ratio finite.
    """
    known = candidate_valid.unsqueeze(1).to(probabilities.dtype)
    mass = (probabilities * known).sum(-1)
    safe_depth = candidate_depth.masked_fill(~candidate_valid, 0.0).unsqueeze(-1).to(probabilities.dtype)
    expected = (probabilities @ safe_depth).squeeze(-1) / mass.clamp(min=eps)
    truth = depth.masked_fill(~valid, 1.0).to(probabilities.dtype)
    error = (truth - expected).abs() / (truth + expected + eps)
    return error.masked_fill(~valid, 0.0).sum()
