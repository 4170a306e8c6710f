from __future__ import annotations

import math

import pytest
import torch

from spatialprior.objectives.point_maps import (
    confidence_loss,
    gather_valid,
    in_first_view,
    mean_distance,
    point_map_loss,
    point_weights,
    scale_translations,
    sky_loss,
)


def test_weights_are_one_over_depth_with_a_floor_at_a_tenth_of_the_mean():
    depth = torch.tensor([[0.1, 10.0], [19.9, math.nan]])
    valid = torch.tensor([[True, True], [True, False]])
    assert point_weights(depth, valid).flatten().tolist() == pytest.approx(
        [1 / 1.0, 1 / 10, 1 / 19.9, 0]  # mean 10, so the floor is 1
    )
    assert point_weights(depth, torch.zeros_like(valid)).tolist() == [[0, 0], [0, 0]]


def test_point_map_loss_by_hand():
    predicted = torch.tensor([[1.0, 2, 3], [0, 0, 0]])
    truth = torch.tensor([[1.0, 0, 4], [0, 0, 2]])
    total, count = point_map_loss(predicted, truth, torch.tensor([0.5, 2.0]))
    assert (float(total), count) == (0.5 * 3 + 2 * 2, 6)


def test_gathers_valid_pixels_in_order_of_views_of_any_size():
    maps = [torch.arange(4.0).view(2, 2), 10 + torch.arange(3.0).view(1, 3)]
    masks = [torch.tensor([[True, False], [False, True]]), torch.tensor([[False, True, True]])]
    assert gather_valid(maps, masks).tolist() == [0, 3, 11, 12]


def test_unit_is_the_mean_distance_and_one_without_points():
    points = torch.tensor([[3.0, 4, 0], [0, 0, 1]], requires_grad=True)
    assert mean_distance(points).item() == 3
    assert mean_distance(points[:0]).item() == 1
    zero = torch.zeros(2, 3, requires_grad=True)
    mean_distance(zero).backward()
    assert mean_distance(zero).item() == 1
    assert zero.grad.tolist() == [[0, 0, 0]] * 2


def test_poses_in_the_first_view_and_scaled():
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[0, :3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # looks along world x
    poses[0, :3, 3] = torch.tensor([1.0, 0, 0])
    poses[1, :3, 3] = torch.tensor([4.0, 0, 0])
    moved = in_first_view(poses)
    assert torch.equal(moved[0], torch.eye(4))
    assert moved[1, :3, 3].tolist() == [0, 0, 3]  # three metres ahead
    assert scale_translations(moved, torch.tensor(2.0))[1, :3, 3].tolist() == [0, 0, 6]
    assert torch.equal(scale_translations(moved, torch.tensor(2.0))[:, :3, :3], moved[:, :3, :3])


def test_confidence_by_hand_reaches_the_logits_alone():
    logits = torch.tensor([2.0, -1.0], requires_grad=True)
    truth = torch.ones(2, 3)
    predicted = (truth + torch.tensor([[0.05, 0, 0], [0.07, 0, 0]])).requires_grad_()
    # Mean over x, y, z: 0.0167 is right, 0.0233 is not.
    total, count = confidence_loss(logits, predicted, truth, torch.ones(2))
    assert count == 2
    assert total.item() == pytest.approx(math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)))
    total.backward()
    assert predicted.grad is None
    assert logits.grad[0] < 0 < logits.grad[1]
    # Weights turn the second point into a right one.
    both, _ = confidence_loss(logits, predicted, truth, torch.tensor([1.0, 0.5]))
    assert both.item() == pytest.approx(math.log1p(math.exp(-2)) + math.log1p(math.exp(1)))
    never, count = sky_loss(torch.tensor([0.0, 3.0]))
    assert (float(never), count) == (pytest.approx(math.log(2) + math.log1p(math.exp(3))), 2)
