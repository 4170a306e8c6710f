from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialprior.geometry.cameras import invert, nearest_rotation
from spatialprior.objectives.relative_pose import (
    relative_pose_losses,
    relative_poses,
    rotation_angle,
)


def poses(seed: int, views: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.eye(4).double().repeat(views, 1, 1)
    made[:, :3, :3] = nearest_rotation(torch.randn(views, 3, 3, generator=generator).double())
    made[:, :3, 3] = torch.randn(views, 3, generator=generator).double()
    return made


def about_z(degrees: float) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)


@pytest.mark.parametrize("degrees", [1.0, 35.0, 120.0, 179.0])
def test_angle_of_a_known_rotation(degrees):
    base = poses(0, 1)[0, :3, :3]
    angle = rotation_angle(base, base @ about_z(degrees))
    assert float(angle) == pytest.approx(math.radians(degrees), abs=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 180.0])
def test_gradient_at_the_ends_of_the_angle_is_finite(degrees):
    turned = about_z(degrees).float().requires_grad_()
    angle = rotation_angle(torch.eye(3), turned)
    angle.backward()
    assert angle.item() == pytest.approx(math.radians(degrees), abs=2e-3)
    assert torch.isfinite(turned.grad).all()


def test_pairs_are_ordered_and_take_the_second_into_the_first():
    some = poses(1, 3)
    wanted = [(i, j) for i in range(3) for j in range(3) if i != j]
    found = relative_poses(some)
    assert len(found) == 6
    for pair, (i, j) in zip(found, wanted, strict=True):
        assert torch.allclose(pair, torch.linalg.inv(some[i]) @ some[j])


def test_translation_by_hand():
    truth = torch.eye(4).repeat(2, 1, 1)
    predicted = truth.clone()
    predicted[1, :3, 3] = torch.tensor([0.05, 0.0, -1.0])
    rotation, translation, count = relative_pose_losses(predicted, truth)
    # Both orders; quadratic below 0.1, linear above; the mean over x, y and z.
    one = (0.05**2 / 2 + 0.1 * (1.0 - 0.05)) / 3
    assert (float(rotation), count) == (0, 2)
    assert float(translation) == pytest.approx(2 * one)


def test_rotation_counts_each_pair_that_sees_it():
    truth = torch.eye(4).double().repeat(3, 1, 1)
    predicted = truth.clone()
    predicted[2, :3, :3] = about_z(30)
    rotation, translation, count = relative_pose_losses(predicted, truth)
    assert count == 6
    assert float(rotation) == pytest.approx(4 * math.radians(30))
    assert float(translation) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), views=st.integers(2, 5))
def test_neither_world_matters_and_truth_costs_nothing(seed, views):
    truth, predicted = poses(seed, views), poses(seed + 1, views)
    worlds = poses(seed + 2, 2)
    plain = relative_pose_losses(predicted, truth)
    moved = relative_pose_losses(worlds[0] @ predicted, invert(worlds[1]) @ truth)
    assert float(moved[0]) == pytest.approx(float(plain[0]), rel=1e-7)
    assert float(moved[1]) == pytest.approx(float(plain[1]), rel=1e-7)
    same = relative_pose_losses(worlds[0] @ truth, truth)
    assert float(same[0]) == 0
    assert float(same[1]) == pytest.approx(0, abs=1e-20)


def test_a_single_view_is_zero_and_connected():
    predicted = poses(0, 1).requires_grad_()
    rotation, translation, count = relative_pose_losses(predicted, poses(1, 1))
    (rotation + translation).backward()
    assert (rotation.item(), translation.item(), count) == (0, 0, 0)
    assert (predicted.grad == 0).all()


def test_keeps_float32_under_autocast():
    truth = poses(3, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rotation, translation, _ = relative_pose_losses(truth, truth)
    assert rotation.dtype == translation.dtype == torch.float32
    assert float(rotation) == 0
    assert float(translation) < 1e-10
