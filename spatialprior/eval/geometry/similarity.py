"""The least-squares similarity transform between two point sets with known pairs (Umeyama 1991)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """``x -> scale * rotation @ x + translation``.

    Attributes:
        scale: Not negative.
        rotation: ``3 3``, determinant +1.
        translation: ``3``.
    """

    scale: float
    rotation: Array
    translation: Array

    def apply(self, points: Array) -> Array:
        """Move points ``... 3``."""
        return self.scale * points @ self.rotation.T + self.translation

    def apply_to_cameras(self, cam_to_world: Array) -> Array:
        """Move cameras ``... 4 4``: centres as points, axes by the rotation alone, so the result is rigid."""
        moved = np.array(cam_to_world)
        moved[..., :3, :3] = self.rotation @ cam_to_world[..., :3, :3]
        moved[..., :3, 3] = self.apply(cam_to_world[..., :3, 3])
        return moved

    def after(self, first: Similarity) -> Similarity:
        """Both in one: ``first``, then this one."""
        return Similarity(
            self.scale * first.scale,
            self.rotation @ first.rotation,
            self.apply(first.translation),
        )


def identity() -> Similarity:
    """The transform that moves nothing."""
    return Similarity(1.0, np.eye(3), np.zeros(3))


def fit_similarity(source: Array, target: Array, *, with_scale: bool = True) -> Similarity:
    """The transform of least squared distance between ``transform(source)`` and ``target``.

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991;
    without the scale, the rigid fit that point-to-point ICP repeats. A source that is a single point gets
    scale 0 (it can do no better than the target's mean), one on a line any rotation about it.

    Args:
        source, target: ``N 3``, row i of one paired with row i of the other.
        with_scale: Fit the scale too; otherwise it is 1.

    Raises:
        ValueError: No points, or the two differ in shape.
    """
    if source.shape != target.shape or source.ndim != 2 or not len(source):
        raise ValueError(f"a fit needs paired points N 3, got {source.shape} and {target.shape}")
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred, wanted = source - source_mean, target - target_mean
    u, strength, vt = np.linalg.svd(wanted.T @ centred / len(source))
    sign = np.array([1.0, 1.0, np.linalg.det(u) * np.linalg.det(vt)])
    sign[2] = -1.0 if sign[2] < 0 else 1.0
    rotation = (u * sign) @ vt
    scale = 1.0
    if with_scale:
        variance = float(np.square(centred).sum() / len(source))
        scale = max(float(strength @ sign) / variance, 0.0) if variance > 0 else 0.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)
