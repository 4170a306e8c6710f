"""Rotations from nine numbers, with a gradient that is finite everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHORTEST_ROW = 1e-4  # a shorter row is not made a unit vector: its direction says nothing
_SMALLEST_SUM = 1e-3  # of two singular values: bounds the gradient where the nearest rotation jumps


def rotation_from_rows(rows: Tensor) -> Tensor:
    """The rotation nearest to a matrix whose rows are first made unit vectors (``g2vlm.md`` section 2).

    The value is :func:`spatialprior.geometry.cameras.nearest_rotation`'s. Its gradient is not usable: autograd
    through a singular value decomposition divides by differences of squared singular values, and at the
    identity, where the head starts, they are all equal. The rotation itself is smooth there, and its derivative
    only divides by sums of two singular values, the smallest negative for a mirror:

        dR = U W V',  W_ij = (X_ij - X_ji) / (s_i + s_j),  X = U' dM V,  M = U S V'.

    Sums are held above 1e-3. First derivatives only; the second would be wrong.

    Args:
        rows: ``... 3 3``; computed in float32 (float64 stays).

    Returns:
        ``... 3 3``, orthogonal with determinant +1.
    """
    with torch.autocast(rows.device.type, enabled=False):
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        matrix = F.normalize(wide, dim=-1, eps=_SHORTEST_ROW)
        with torch.no_grad():
            u, values, vh = torch.linalg.svd(matrix)
            sign = torch.ones_like(values)
            sign[..., 2] = torch.linalg.det(u @ vh).sign()
            vh, values = sign.unsqueeze(-1) * vh, sign * values
            sums = (values.unsqueeze(-1) + values.unsqueeze(-2)).clamp(min=_SMALLEST_SUM)
        # A change of nothing, through which the gradient goes.
        change = u.mT @ (matrix - matrix.detach()) @ vh.mT
        turn = (change - change.mT) / sums
        rotation: Tensor = u @ vh + u @ turn @ vh
        return rotation
