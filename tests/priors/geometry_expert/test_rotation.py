"""Nine numbers to a rotation: its value, its gradient, and the inputs where the plain gradient breaks."""

from __future__ import annotations

import pytest
import torch

from spatialprior.geometry.cameras import nearest_rotation
from spatialprior.priors.geometry_expert.heads.rotation import rotation_from_rows

DEGENERATE = {
    "identity": torch.eye(3),
    "nearly equal singular values": torch.eye(3) + 1e-7 * torch.arange(9.0).view(3, 3),
    "mirror": torch.diag(torch.tensor([1.0, 1.0, -1.0])),
    "point reflection": -torch.eye(3),
    "zero": torch.zeros(3, 3),
    "one zero row": torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "rank one": torch.ones(3, 3),
    "rank two": torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]),
    "huge": 1e30 * torch.eye(3),
    "tiny": 1e-30 * torch.ones(3, 3),
}


def assert_rotation(rotation):
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        torch.linalg.det(rotation), torch.ones(rotation.shape[:-2]), atol=1e-5, rtol=0
    )


def test_value_is_the_nearest_rotation_to_the_rows_made_unit_vectors():
    rows = torch.randn(50, 3, 3, dtype=torch.float64)
    unit = rows / rows.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(rotation_from_rows(rows), nearest_rotation(unit))


def test_a_rotation_stays_itself_whatever_the_length_of_its_rows():
    rotation = nearest_rotation(torch.randn(20, 3, 3))
    torch.testing.assert_close(
        rotation_from_rows(rotation * torch.tensor([[3.0], [0.2], [7]])), rotation
    )


def test_gradient_against_finite_differences():
    torch.manual_seed(0)
    rows = torch.randn(6, 3, 3, dtype=torch.float64)
    rows[0] = torch.eye(3)
    rows[1] = rows[1] * torch.linalg.det(rows[1]).sign()
    rows[2] = -rows[2] * torch.linalg.det(rows[2]).sign()  # to a mirror's side
    assert torch.autograd.gradcheck(rotation_from_rows, rows.requires_grad_())


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_rows_give_a_rotation_and_a_bounded_gradient(name):
    rows = DEGENERATE[name].clone().requires_grad_()
    rotation = rotation_from_rows(rows)
    assert_rotation(rotation)
    (rotation * torch.arange(9.0).view(3, 3)).sum().backward()
    assert rows.grad.isfinite().all()
    assert rows.grad.abs().max() < 1e9


def test_the_plain_gradient_is_not_usable_at_the_identity():
    rows = torch.eye(3).requires_grad_()
    (nearest_rotation(rows) * torch.arange(9.0).view(3, 3)).sum().backward()
    assert not rows.grad.isfinite().all()  # why heads/rotation.py exists


def test_float32_under_autocast():
    rows = torch.randn(4, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        rotation = rotation_from_rows(rows.bfloat16())
    assert rotation.dtype == torch.float32
    assert_rotation(rotation)
