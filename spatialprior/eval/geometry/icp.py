"""Point-to-point ICP with a longest pair distance (Besl and McKay 1992)."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from spatialprior.eval.geometry.similarity import Array, Similarity, fit_similarity, identity

_CHANGE = 1e-6  # Open3D's ICPConvergenceCriteria: relative_fitness, relative_rmse


def register(
    source: Array, target: Array, *, threshold: float = 0.1, iterations: int = 30
) -> Similarity:
    """The rigid transform that brings ``source`` onto ``target``, from where it lies now.

    As Open3D's ``registration_icp`` with the point-to-point estimate, which the suites of CUT3R and Pi3 call
    (benchmarks.md section 6): nearest neighbours within ``threshold``, a rigid fit without scale, again
    until the share of paired points and their root mean square distance change by less than 1e-6.

    Args:
        source: ``N 3``, metres.
        target: ``M 3``, metres.
        threshold: Points farther than this from the target take no part, metres.
        iterations: At most.

    Returns:
        The transform; the identity where fewer than three points lie near the target.
    """
    tree = cKDTree(target)
    found = identity()
    distance, index = tree.query(source)
    near = distance < threshold
    fitness, rmse = _quality(distance, near)
    for _ in range(iterations):
        if near.sum() < 3:
            break
        moved = found.apply(source[near])
        found = fit_similarity(moved, target[index[near]], with_scale=False).after(found)
        distance, index = tree.query(found.apply(source))
        near = distance < threshold
        last_fitness, last_rmse = fitness, rmse
        fitness, rmse = _quality(distance, near)
        if abs(fitness - last_fitness) < _CHANGE and abs(rmse - last_rmse) < _CHANGE:
            break
    return found


def _quality(distance: Array, near: np.ndarray) -> tuple[float, float]:
    """Share of paired points, and the root mean square distance of the pairs."""
    if not near.any():
        return 0.0, 0.0
    return float(near.mean()), float(np.sqrt(np.square(distance[near]).mean()))
