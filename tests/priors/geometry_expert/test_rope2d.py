"""2D rotary positions: the closed form, and scores that depend on relative rows and columns only."""

from __future__ import annotations

import cmath

import pytest
import torch

from spatialprior.priors.geometry_expert.heads.rope2d import Angles, grid_angles, rotate

CPU = torch.device("cpu")


def angles_in_float64(grid, channels):
    return Angles(*(part.double() for part in grid_angles(grid, channels, CPU)))


@pytest.mark.parametrize("channels", [4, 8, 12])
def test_closed_form(channels):
    grid, quarter = (3, 5), channels // 4
    states = torch.randn(1, 1, 15, channels, dtype=torch.float64)
    turned = rotate(states, angles_in_float64(grid, channels))[0, 0]
    for patch in range(15):
        place = divmod(patch, 5)  # row, column
        for axis in range(2):
            for k in range(quarter):
                at = axis * 2 * quarter + k
                pair = complex(states[0, 0, patch, at], states[0, 0, patch, at + quarter])
                expected = pair * cmath.exp(1j * place[axis] * 100 ** (-k / quarter))
                assert turned[patch, at].item() == pytest.approx(expected.real, abs=1e-6)
                assert turned[patch, at + quarter].item() == pytest.approx(expected.imag, abs=1e-6)


def test_scores_depend_on_relative_row_and_column_only():
    grid = (4, 6)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    angles = angles_in_float64(grid, 8)
    queries, keys = (rotate(x.expand(1, 1, 24, 8), angles)[0, 0] for x in (query, key))
    scores = (queries @ keys.T).unflatten(0, grid).unflatten(2, grid)  # row col row col
    near = {"atol": 1e-5, "rtol": 0}  # the angles are in float32
    torch.testing.assert_close(scores[1:, :, 1:], scores[:-1, :, :-1], **near)
    torch.testing.assert_close(scores[:, 1:, :, 1:], scores[:, :-1, :, :-1], **near)
    # Rows and columns are told apart, and so are directions.
    one_down, one_right, one_up = scores[0, 0, 1, 0], scores[0, 0, 0, 1], scores[1, 0, 0, 0]
    assert (one_down - one_right).abs() > 1e-2
    assert (one_down - one_up).abs() > 1e-2


def test_bfloat16_states_turn_as_float32_ones():
    states = torch.randn(1, 2, 37 * 37, 96).bfloat16()
    angles = grid_angles((37, 37), 96, CPU)
    turned = rotate(states, angles)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned, rotate(states.float(), angles).bfloat16())
