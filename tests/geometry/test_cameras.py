from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spatialprior.geometry.cameras import (
    compose,
    invert,
    nearest_rotation,
    project,
    transform,
    unproject,
)

K = torch.tensor([[100.0, 0, 64], [0, 120, 48], [0, 0, 1]], dtype=torch.float64)


def rigid(seed: int, batch: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pose = torch.eye(4, dtype=torch.float64).repeat(*batch, 1, 1)
    pose[..., :3, :3] = nearest_rotation(
        torch.randn(*batch, 3, 3, dtype=torch.float64, generator=generator)
    )
    pose[..., :3, 3] = torch.randn(*batch, 3, dtype=torch.float64, generator=generator)
    return pose


def test_projects_onto_the_closed_form() -> None:
    # 90 degrees about y: the camera looks along world +x, world +z is to its left.
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
    pixels, depth = project(torch.tensor([[4.0, 1.0, 2.0]], dtype=torch.float64), K, pose)
    assert depth.tolist() == [4.0]
    assert pixels.tolist() == [[64 - 100 * 2 / 4, 48 + 120 * 1 / 4]]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    depth=st.floats(0.05, 50),
    x=st.floats(-50, 200),
    y=st.floats(-50, 200),
    skew=st.floats(-5, 5),
)
def test_round_trip(seed: int, depth: float, x: float, y: float, skew: float) -> None:
    intrinsics = K.clone()
    intrinsics[0, 1] = skew
    pixels = torch.tensor([[x, y]], dtype=torch.float64)
    z = torch.tensor([depth], dtype=torch.float64)
    world_to_cam = rigid(seed)
    back, z_back = project(unproject(pixels, z, intrinsics, world_to_cam), intrinsics, world_to_cam)
    torch.testing.assert_close(back, pixels, atol=1e-7, rtol=0)
    torch.testing.assert_close(z_back, z, atol=1e-9, rtol=1e-9)


def test_batches_broadcast_like_a_loop() -> None:
    poses, intrinsics = rigid(1, (5,)), K.expand(5, 3, 3)
    points = torch.randn(5, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pixels, depth = project(points, intrinsics, poses)
    for i in range(5):
        one, one_depth = project(points[i], K, poses[i])
        torch.testing.assert_close(pixels[i], one)
        torch.testing.assert_close(depth[i], one_depth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_dtype_and_is_finite_in_the_cameras_own_plane(dtype: torch.dtype) -> None:
    points = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, -1.0]], dtype=dtype, requires_grad=True)
    pixels, depth = project(points, K.to(dtype), torch.eye(4, dtype=dtype))
    assert pixels.dtype == depth.dtype == dtype
    assert depth.tolist() == [0.0, -1.0]
    pixels.sum().backward()
    assert points.grad is not None
    assert bool(pixels.isfinite().all()) and bool(points.grad.isfinite().all())


def test_invert_and_compose_agree_with_matrices() -> None:
    a_to_b, b_to_c = rigid(3, (4,)), rigid(4, (4,))
    torch.testing.assert_close(invert(a_to_b), torch.linalg.inv(a_to_b))
    points = torch.randn(4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        transform(points, compose(b_to_c, a_to_b)), transform(transform(points, a_to_b), b_to_c)
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 0.02))
def test_nearest_rotation_mends_rounding(seed: int, noise: float) -> None:
    true = rigid(seed)[:3, :3]
    rough = true + noise * torch.randn(
        3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    mended = nearest_rotation(rough)
    torch.testing.assert_close(mended @ mended.T, torch.eye(3, dtype=torch.float64))
    assert math.isclose(float(torch.linalg.det(mended)), 1.0, abs_tol=1e-9)
    # Nearest: no farther from the rough matrix than the rotation that it came from.
    assert (mended - rough).norm() <= (true - rough).norm() + 1e-12


def test_nearest_rotation_of_a_mirror_is_a_rotation() -> None:
    mended = nearest_rotation(torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)))
    assert math.isclose(float(torch.linalg.det(mended)), 1.0, abs_tol=1e-9)
