"""Normals of a point cloud from its nearest neighbours."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from spatialprior.eval.geometry.similarity import Array


def estimate_normals(points: Array, tree: cKDTree, neighbours: int = 30) -> Array:
    """Unit normal of each point, up to its sign: the least direction of variance of its nearest points.

    As Open3D's ``estimate_normals`` by default: 30 nearest points, itself among them. Where they lie on a
    line or in one place, the normal is some unit vector orthogonal to that line, as it is there.

    Args:
        points: ``N 3``.
        tree: Of these points.
        neighbours: At most; fewer where the cloud has fewer.

    Returns:
        ``N 3``.
    """
    _, index = tree.query(points, k=min(neighbours, len(points)))
    around = points[np.reshape(index, (len(points), -1))]
    around = around - around.mean(1, keepdims=True)
    covariance = around.transpose(0, 2, 1) @ around
    _, axes = np.linalg.eigh(covariance)  # ascending: the first column varies least
    return axes[:, :, 0]
