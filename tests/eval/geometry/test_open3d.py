"""Against Open3D itself: ``pip install -e ".[geometry-check]"``; skipped without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from spatialprior.eval.geometry.icp import register
from spatialprior.eval.geometry.normals import estimate_normals
from spatialprior.eval.geometry.points import Cloud, compare_clouds

o3d = pytest.importorskip("open3d")


def _cloud(points: np.ndarray) -> Any:
    cloud = o3d.geometry.PointCloud()
    cloud.points = o3d.utility.Vector3dVector(points)
    return cloud


def _surface(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-1, 1, (n, 2))
    z = 0.3 * np.sin(3 * xy[:, 0]) + 0.2 * xy[:, 1] ** 2 + 0.1 * xy[:, 0]
    return np.column_stack([xy, z]) + rng.normal(0, 0.01, (n, 3))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.03, 0.1])
def test_icp_is_open3ds(seed: int, threshold: float) -> None:
    target = _surface(seed, 3000)
    source = Rotation.from_rotvec([0.03, -0.02, 0.04]).apply(_surface(seed + 10, 2000)) + 0.02
    method = o3d.pipelines.registration.TransformationEstimationPointToPoint()
    wanted = o3d.pipelines.registration.registration_icp(
        _cloud(source), _cloud(target), threshold, np.eye(4), method
    ).transformation
    found = register(source, target, threshold=threshold)
    np.testing.assert_allclose(found.rotation, wanted[:3, :3], atol=1e-9)
    np.testing.assert_allclose(found.translation, wanted[:3, 3], atol=1e-9)


def test_normals_are_open3ds() -> None:
    points = _surface(4, 2000)
    cloud = _cloud(points)
    cloud.estimate_normals()
    dot = (estimate_normals(points, cKDTree(points)) * np.asarray(cloud.normals)).sum(1)
    np.testing.assert_allclose(np.abs(dot), 1, atol=1e-6)


def test_distances_are_open3ds() -> None:
    a, b = _surface(5, 900), _surface(6, 1100)
    found = compare_clouds(Cloud.of(a, 30), Cloud.of(b, 30))
    forward = np.asarray(_cloud(a).compute_point_cloud_distance(_cloud(b)))
    backward = np.asarray(_cloud(b).compute_point_cloud_distance(_cloud(a)))
    assert found["acc_mean"] == pytest.approx(forward.mean())
    assert found["acc_median"] == pytest.approx(np.median(forward))
    assert found["comp_mean"] == pytest.approx(backward.mean())
    assert found["comp_median"] == pytest.approx(np.median(backward))
