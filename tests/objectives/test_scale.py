from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from spatialprior.objectives.scale import optimal_scale, spread_indices


def cloud(seed: int, number: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randn(number, 3, generator=generator, dtype=dtype)
    weights = torch.rand(number, generator=generator, dtype=dtype) + 0.1
    return predicted, weights, generator


def cost(scale, predicted, truth, weights):
    return float((weights.unsqueeze(-1) * (scale * predicted - truth).abs()).sum())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), number=st.integers(1, 40), noise=st.sampled_from([0.0, 0.3, 3.0])
)
def test_no_candidate_and_no_search_finds_a_lower_cost(seed, number, noise):
    predicted, weights, generator = cloud(seed, number)
    truth = 2.5 * predicted + noise * torch.randn(number, 3, generator=generator).double()
    scale = float(optimal_scale(predicted, truth, weights))
    # The cost is convex and piecewise linear: its least value lies on one of the ratios.
    ratios = (truth / predicted).flatten().tolist()
    least = min(ratios, key=lambda ratio: cost(ratio, predicted, truth, weights))
    if least <= 0:  # negated, as published
        assert scale == pytest.approx(abs(least), rel=1e-9)
        return
    best = cost(least, predicted, truth, weights)
    assert cost(scale, predicted, truth, weights) <= best + 1e-9 * (1 + best)
    found = minimize_scalar(cost, args=(predicted, truth, weights), bracket=(0.1, 5)).fun
    assert cost(scale, predicted, truth, weights) <= found + 1e-9 * (1 + found)


def test_forty_percent_outliers_leave_the_known_scale():
    predicted, weights, generator = cloud(1, 1000)
    truth = 3.7 * predicted
    wrong = torch.randperm(1000, generator=generator)[:400]
    truth[wrong] = 50 * torch.randn(400, 3, generator=generator).double()
    assert float(optimal_scale(predicted, truth, weights)) == pytest.approx(3.7, abs=1e-12)
    least_squares = (predicted * truth).sum() / predicted.square().sum()
    assert abs(float(least_squares) - 3.7) > 0.1  # the outliers do matter


def test_weights_decide():
    predicted = torch.ones(2, 3)
    truth = torch.stack([torch.full((3,), 2.0), torch.full((3,), 5.0)])
    assert float(optimal_scale(predicted, truth, torch.tensor([3.0, 1.0]))) == 2
    assert float(optimal_scale(predicted, truth, torch.tensor([1.0, 3.0]))) == 5


def test_is_positive_for_a_mirrored_prediction():
    predicted, weights, _ = cloud(2, 50)
    assert float(optimal_scale(-predicted, 4 * predicted, weights)) == pytest.approx(4)


@pytest.mark.parametrize(
    ("predicted", "truth"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (torch.zeros(5, 3), torch.ones(5, 3)),
        (torch.ones(5, 3), torch.zeros(5, 3)),
        (torch.full((5, 3), torch.inf), torch.ones(5, 3)),
        (torch.full((5, 3), torch.nan), torch.ones(5, 3)),
    ],
)
def test_is_one_where_nothing_tells(predicted, truth):
    assert float(optimal_scale(predicted, truth, torch.ones(len(predicted)))) == 1


def test_has_no_gradient_and_full_precision():
    predicted, weights, _ = cloud(3, 20)
    predicted = predicted.requires_grad_()
    assert not optimal_scale(predicted, predicted, weights).requires_grad
    assert optimal_scale(predicted, predicted, weights).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = optimal_scale(predicted.bfloat16(), 1.7 * predicted.bfloat16().float(), weights)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(1.7, rel=1e-6)


def test_takes_points_spread_evenly_over_all():
    assert spread_indices(3, 4, torch.device("cpu")).tolist() == [0, 1, 2]
    assert spread_indices(12, 4, torch.device("cpu")).tolist() == [1, 4, 7, 10]
    picked = spread_indices(6_000_000, 4096, torch.device("cpu"))
    gaps = picked.diff()
    assert len(picked) == 4096
    assert 0 < int(picked[0]) < int(picked[-1]) < 6_000_000
    assert int(gaps.max()) - int(gaps.min()) <= 1
    # Only the points taken count.
    predicted, weights, _ = cloud(4, 12)
    truth = 9 * predicted
    truth[[1, 4, 7, 10]] = 2 * predicted[[1, 4, 7, 10]]
    assert float(optimal_scale(predicted, truth, weights, max_points=4)) == pytest.approx(2)
    assert float(optimal_scale(predicted, truth, weights)) == pytest.approx(9)
