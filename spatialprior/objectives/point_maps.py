"""Point maps against the truth: units, weights, L1 error and confidence.

Source: G²VLM (arXiv 2511.21688), g2vlm.md section 3, "Preparation" and "Weights"; confidence in section 2.
Points here are those that have a truth, ``N 3``, gathered over the views of one clip: pixels without a truth
never enter, so whatever lies in them (NaN included) reaches neither a value nor a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from spatialprior.geometry.cameras import invert
from spatialprior.objectives.scale import at_least_float32

_SMALLEST_UNIT = 1e-12  # a mean distance below this is no unit to divide by


def gather_valid(maps: Iterable[Tensor], valid: Iterable[Tensor]) -> Tensor:
    """Valid pixels of every view one after the other: ``H W ...`` under ``H W`` bool, to ``N ...``."""
    return torch.cat([view[mask] for view, mask in zip(maps, valid, strict=True)])


def mean_distance(points: Tensor) -> Tensor:
    """Mean distance of ``N 3`` points from the origin: the unit that lengths are divided by.

    Scalar, with gradient (as published: a prediction divided by it no longer depends on its own scale). 1
    without points, and where all points lie in the origin.
    """
    points = at_least_float32(points)
    if len(points) == 0:
        return points.new_ones(())
    mean = points.norm(dim=-1).mean()
    return torch.where(mean > _SMALLEST_UNIT, mean, torch.ones_like(mean))


def in_first_view(cam_to_world: Tensor) -> Tensor:
    """Camera poses ``V 4 4`` in the frame of the first camera, whose own pose becomes the identity."""
    return invert(cam_to_world[:1]) @ cam_to_world


def scale_translations(cam_to_world: Tensor, factor: Tensor) -> Tensor:
    """Poses ``... 4 4`` with their translations multiplied by the scalar ``factor``."""
    factors = torch.ones_like(cam_to_world)
    factors[..., :3, 3] = factor.to(factors.dtype)
    return cam_to_world * factors


def point_weights(depth: Tensor, valid: Tensor) -> Tensor:
    """``1 / max(z, 0.1 mean z)`` of one view, so that far points do not rule the loss; 0 where not valid.

    Args:
        depth: ``H W``, true z; whatever where not valid.
        valid: ``H W`` bool; the mean is over these.
    """
    depth = at_least_float32(depth)
    known = depth[valid]
    weights = torch.zeros_like(depth)
    if len(known):
        weights[valid] = 1 / torch.maximum(known, 0.1 * known.mean())
    return weights


def point_map_loss(predicted: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """``sum_j w_j |predicted_j - truth_j|_1`` over ``N 3`` points with weights ``N``, and the count ``3 N``."""
    error = (at_least_float32(predicted) - at_least_float32(truth)).abs()
    return (weights.unsqueeze(-1) * error).sum(), 3.0 * len(predicted)


def confidence_loss(
    logits: Tensor,
    predicted: Tensor,
    truth: Tensor,
    weights: Tensor,
    threshold: float = 0.02,
) -> tuple[Tensor, float]:
    """Binary cross-entropy on "this point is right", summed over N points.

    Args:
        logits: ``N``.
        predicted, truth, weights: As in :func:`point_map_loss`; a point is right where its weighted error,
            the mean over x, y and z, is below ``threshold``. Only the logits get a gradient.
        threshold: Published: 0.02.
    """
    logits = at_least_float32(logits)
    error = weights * (predicted.detach() - truth).abs().mean(-1)
    right = (error < threshold).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, right, reduction="sum"), float(len(logits))


def sky_loss(logits: Tensor) -> tuple[Tensor, float]:
    """Binary cross-entropy on "never right", summed over the logits ``N`` of sky pixels."""
    logits = at_least_float32(logits)
    wrong = torch.zeros_like(logits)
    return F.binary_cross_entropy_with_logits(logits, wrong, reduction="sum"), float(len(logits))
