"""Surface normals of a predicted point map against those of the true one.

Source: G²VLM (arXiv 2511.21688) after MoGe; g2vlm.md section 3, "L_normal". A quad of 2×2 neighbouring pixels
has four triangles, one a corner with its two neighbours, and the cross product of a triangle's sides is its
normal. Normals do not depend on the scale of the points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spatialprior.objectives.scale import at_least_float32

SMALLEST_ANGLE = math.radians(1)
LARGEST_ANGLE = math.radians(90)
BETA = math.radians(3)
"""Below this angle the penalty is quadratic, above it linear."""
EDGE = 0.03
"""A 3×3 neighbourhood whose depths differ by more than this share of its centre's depth holds an edge."""
_SMALLEST_AREA = 1e-12  # a triangle smaller than this has no normal to speak of


def depth_edges(depth: Tensor, valid: Tensor, share: float = EDGE) -> Tensor:
    """Pixels next to a jump in depth: ``H W`` bool, from ``H W`` depth and ``H W`` bool; false where not valid.

    Only valid pixels of the 3×3 neighbourhood count.
    """

    def highest(values: Tensor) -> Tensor:
        known = values.masked_fill(~valid, -math.inf)
        return F.max_pool2d(known[None, None], kernel_size=3, stride=1, padding=1)[0, 0]

    spread = highest(depth) + highest(-depth)
    return valid & (spread > share * depth)


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Angle in radians, ``N``, between the vectors ``N 3``, none of which is zero; precise at every angle."""
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1))


def angle_penalty(angle: Tensor) -> Tensor:
    """Huber-like penalty of angles in radians: the angle less β/2, or its square over 2β below β.

    Angles are clamped to [1°, 90°], beyond which there is no gradient. Below 1° the value is zero, not the
    constant of the published formula (0.003 rad), so that the loss of the truth is zero; the gradient is the
    same.
    """
    clamped = angle.clamp(SMALLEST_ANGLE, LARGEST_ANGLE)
    smooth = torch.where(clamped < BETA, clamped.square() / (2 * BETA), clamped - BETA / 2)
    return smooth.masked_fill(angle <= SMALLEST_ANGLE, 0.0)


def normal_loss(predicted: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, float]:
    """Summed penalty of the angles between normals, for one view.

    Args:
        predicted: ``H W 3`` points in the camera's frame, in a unit in which they are about 1 away.
        truth: ``H W 3``, metres or any unit; z is depth.
        valid: ``H W`` bool. A triangle counts where its three corners are valid and off the true depth's
            edges.

    Returns:
        The sum over triangles, divided by ``4 max(H, W)``, and the number of quads: as published, the mean
        runs over all quads of the view, and those without a truth add zero.
    """
    predicted, truth = at_least_float32(predicted), at_least_float32(truth)
    height, width = valid.shape
    usable = (valid & ~depth_edges(truth[..., 2], valid)).flatten()
    predicted, truth = predicted.reshape(-1, 3), truth.reshape(-1, 3)
    pixels = torch.arange(height * width, device=valid.device).view(height, width)
    ring = (pixels[:-1, :-1], pixels[:-1, 1:], pixels[1:, 1:], pixels[1:, :-1])  # around the quad
    total = predicted[:0].sum()
    for corner in range(4):
        neighbours = ring[(corner + 1) % 4], ring[corner - 1]
        triangles = torch.stack([ring[corner], *neighbours], dim=-1).view(-1, 3)
        triangles = triangles[usable[triangles].all(-1)]
        found, wanted = _normals(predicted, triangles), _normals(truth, triangles)
        # Without a normal there is no angle. NaN is not small: it must show in the sum.
        has_normal = ~((found.norm(dim=-1) <= _SMALLEST_AREA) | (wanted.norm(dim=-1) == 0))
        total = total + angle_penalty(angle_between(found[has_normal], wanted[has_normal])).sum()
    return total / (4 * max(height, width)), float(ring[0].numel())


def _normals(points: Tensor, triangles: Tensor) -> Tensor:
    """Normals, as long as twice the area, of triangles ``N 3`` (corner, next, previous) of points ``M 3``."""
    corner, following, previous = points[triangles].unbind(1)
    normals: Tensor = torch.linalg.cross(following - corner, previous - corner)
    return normals
