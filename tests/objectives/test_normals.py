from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialprior.objectives.normals import angle_penalty, depth_edges, normal_loss

BETA = math.radians(3)


def plane(tilt: float, height: int = 5, width: int = 7) -> torch.Tensor:
    """A pinhole's view of a plane two units ahead, turned by ``tilt`` degrees about the x axis."""
    y, x = torch.meshgrid(
        torch.linspace(-0.2, 0.2, height).double(),
        torch.linspace(-0.3, 0.3, width).double(),
        indexing="ij",
    )
    depth = 2 / (1 - y * math.tan(math.radians(tilt)))  # z = 2 + tan(tilt) * (y z)
    return torch.stack([x * depth, y * depth, depth], dim=-1)


@pytest.mark.parametrize("degrees", [2.0, 20.0, 60.0])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_two_planes_differ_by_their_angle(degrees, factor):
    valid = torch.ones(5, 7, dtype=torch.bool)
    total, count = normal_loss(factor * plane(degrees), plane(0), valid)
    angle = math.radians(degrees)
    penalty = angle**2 / (2 * BETA) if angle < BETA else angle - BETA / 2
    assert count == 4 * 6
    # Four triangles a quad, over 4 max(H, W).
    assert float(total) == pytest.approx(24 * 4 * penalty / (4 * 7), rel=1e-9)


def test_penalty_is_clamped_at_both_ends_and_flat_beyond():
    angle = torch.deg2rad(torch.tensor([0.0, 0.9, 1.1, 90.0, 170.0])).requires_grad_()
    penalty = angle_penalty(angle)
    penalty.sum().backward()
    full = math.pi / 2 - BETA / 2
    wanted = [0, 0, math.radians(1.1) ** 2 / (2 * BETA), full, full]
    assert penalty.tolist() == pytest.approx(wanted)
    assert angle.grad[[0, 1, 4]].tolist() == [0, 0, 0]
    assert float(angle.grad[2]) == pytest.approx(1.1 / 3)


def test_a_triangle_with_an_invalid_corner_adds_nothing_but_is_counted():
    valid = torch.ones(2, 2, dtype=torch.bool)
    whole, _ = normal_loss(plane(30, 2, 2), plane(0, 2, 2), valid)
    valid[0, 1] = False  # one corner of four: it belongs to three of the four triangles
    part, count = normal_loss(plane(30, 2, 2), plane(0, 2, 2), valid)
    assert count == 1
    assert float(part) == pytest.approx(float(whole) / 4)
    none, count = normal_loss(plane(30, 2, 2), plane(0, 2, 2), torch.zeros_like(valid))
    assert (float(none), count) == (0, 1)


def test_edges_are_jumps_of_more_than_three_percent_between_valid_neighbours():
    depth = torch.full((5, 6), 2.0)
    depth[:, 3:] = 2.05  # 2.5 %
    valid = torch.ones(5, 6, dtype=torch.bool)
    assert not depth_edges(depth, valid).any()
    depth[:, 3:] = 2.1
    assert depth_edges(depth, valid)[0].tolist() == [False, False, True, True, False, False]
    valid[:, 2] = False
    assert not depth_edges(depth, valid).any()  # the jump is no longer between neighbours
    depth[0, 2] = math.nan
    assert not depth_edges(depth, valid).any()


def test_triangles_over_an_edge_of_the_truth_do_not_count():
    truth = plane(0)
    truth[:, 4:] *= 1.5
    valid = torch.ones(5, 7, dtype=torch.bool)
    on_edge = torch.zeros_like(valid)
    on_edge[:, 3:5] = True
    found, _ = normal_loss(plane(30), truth, valid)
    wanted, _ = normal_loss(plane(30), truth, valid & ~on_edge)
    assert float(found) == pytest.approx(float(wanted))
    assert float(found) > 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_gradient_is_finite_whatever_lies_in_invalid_pixels(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    truth = plane(10).to(dtype)
    valid = torch.rand(5, 7, generator=generator) < 0.7
    predicted = truth + 0.1 * torch.randn(5, 7, 3, generator=generator).to(dtype)
    truth[~valid] = math.nan
    predicted[~valid] = math.inf
    predicted.requires_grad_()
    total, _ = normal_loss(predicted, truth, valid)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(predicted.grad).all()
    assert (predicted.grad[~valid] == 0).all()


def test_truth_and_collapsed_predictions_have_a_finite_gradient():
    valid = torch.ones(5, 7, dtype=torch.bool)
    for predicted in (plane(10).float(), torch.zeros(5, 7, 3)):
        predicted.requires_grad_()
        total, _ = normal_loss(predicted, plane(10).float(), valid)
        total.backward()
        assert total.item() == 0
        assert torch.isfinite(predicted.grad).all()


def test_a_triangle_too_small_to_have_a_normal_adds_nothing():
    valid = torch.ones(5, 7, dtype=torch.bool)
    speck = (1e-6 * plane(40)).requires_grad_()  # its triangles have areas of about 1e-14
    total, _ = normal_loss(speck, plane(0), valid)
    total.backward()
    assert total.item() == 0
    assert (speck.grad == 0).all()
