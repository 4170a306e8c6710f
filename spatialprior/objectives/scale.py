"""The scale that best lays a predicted point cloud over the true one, exactly and without gradient.

Source: G²VLM (arXiv 2511.21688) after MoGe and π³; facts in g2vlm.md section 3, "Scale (ROE, no gradient)".
``s* = argmin_s sum_j w_j |s x̂_j - x_j|_1``. Every coordinate k adds ``w |x̂_k| |s - x_k / x̂_k|``, so s* is
the median of the ratios ``x_k / x̂_k`` under the weights ``w |x̂_k|``: outliers move it no more than half of
that weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_POINTS = 4096
"""Points the median is taken over (published code)."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or as it is in float64: bfloat16 is too coarse for medians, means and angles."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def spread_indices(number: int, most: int, device: torch.device) -> Tensor:
    """At most ``most`` of the indices ``0 .. number-1``, evenly spread: all of them where they are few enough.

    The k-th of M is the one nearest to ``(k + 1/2) number / M``, in integers: the same on every device.
    """
    if number <= most:
        return torch.arange(number, device=device)
    return (2 * torch.arange(most, device=device) + 1) * number // (2 * most)


@torch.no_grad()
def optimal_scale(
    predicted: Tensor, truth: Tensor, weights: Tensor, max_points: int = MAX_POINTS
) -> Tensor:
    """``argmin_s sum_j weights_j |s predicted_j - truth_j|_1``, positive.

    Args:
        predicted: ``N 3``, points of the whole clip that have a truth, in any unit.
        truth: ``N 3``, in the same frame.
        weights: ``N``, non-negative.
        max_points: The median is over at most this many points, evenly spread over the N.

    Returns:
        Scalar without gradient, float32 (float64 of float64 input). A median below zero is negated, as
        published.
        1 where nothing says what the scale is: no point, predictions that are all zero, or not finite.
    """
    predicted, truth, weights = (at_least_float32(t) for t in (predicted, truth, weights))
    kept = spread_indices(len(predicted), max_points, predicted.device)
    x, y = predicted[kept].flatten(), truth[kept].flatten()
    mass = weights[kept].repeat_interleave(3) * x.abs()
    one = x.new_ones(())
    if len(x) == 0:
        return one
    # A coordinate predicted as zero weighs nothing; its ratio only has to be a number that can be sorted.
    ratio, order = torch.where(x == 0, 0.0, y / x).sort()
    cumulative = mass[order].cumsum(0)
    half = cumulative[-1] / 2
    median = ratio[torch.searchsorted(cumulative, half).clamp(max=len(ratio) - 1)].abs()
    known = (half > 0) & torch.isfinite(half) & (median > 0) & torch.isfinite(median)
    return torch.where(known, median, one)
