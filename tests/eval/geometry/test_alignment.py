from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar

from spatialprior.eval.geometry.alignment import l1_scale, l1_scale_shift, median_scale


def _pair(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Depths with noise and a fifth of gross outliers, so that least squares would be far off."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(0.3, 2, n)
    truth = 2.5 * predicted + 0.4 + rng.laplace(0, 0.05, n)
    truth[: n // 5] *= rng.uniform(2, 6, n // 5)
    return predicted, truth


def _linear_programme(predicted: np.ndarray, truth: np.ndarray, *, shift: bool) -> float:
    """The least sum of absolute deviations: minimise sum u with -u <= s p + t - g <= u (HiGHS)."""
    n = len(predicted)
    columns = np.stack([predicted, np.ones(n)], axis=1) if shift else predicted[:, None]
    rows = np.block([[columns, -np.eye(n)], [-columns, -np.eye(n)]])
    extra = columns.shape[1]
    found = linprog(
        np.r_[np.zeros(extra), np.ones(n)],
        A_ub=rows,
        b_ub=np.r_[truth, -truth],
        bounds=[(None, None)] * extra + [(0, None)] * n,
    )
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("seed", range(4))
def test_both_l1_fits_reach_the_optimum_of_a_linear_programme(seed: int) -> None:
    predicted, truth = _pair(seed)
    scale = l1_scale(predicted, truth)
    cost = np.abs(scale * predicted - truth).sum()
    assert cost == pytest.approx(_linear_programme(predicted, truth, shift=False), rel=1e-9)
    a, b = l1_scale_shift(predicted, truth)
    cost = np.abs(a * predicted + b - truth).sum()
    assert cost == pytest.approx(_linear_programme(predicted, truth, shift=True), rel=1e-7)
    assert a == pytest.approx(2.5, abs=0.15) and b == pytest.approx(0.4, abs=0.15)


def test_l1_scale_beats_and_nears_reweighted_least_squares() -> None:
    predicted, truth = _pair(7, n=5000)

    def cost(s: float) -> float:
        return float(np.abs(s * predicted - truth).sum())

    exact = l1_scale(predicted, truth)
    scale = float(predicted @ truth / (predicted @ predicted))
    gaps = []
    for _ in range(300):
        weight = 1 / np.maximum(np.abs(scale * predicted - truth), 1e-6)
        scale = float((weight * predicted) @ truth / ((weight * predicted) @ predicted))
        gaps.append(abs(scale - exact) / exact)
        assert cost(exact) <= cost(scale)
    # The ten steps of the Pi3 suite are on the way, not there, when a fifth of the pixels are outliers.
    assert gaps[-1] < 1e-3 < gaps[9] < 0.05
    searched = minimize_scalar(cost, bounds=(0, 10), method="bounded", options={"xatol": 1e-10})
    assert exact == pytest.approx(searched.x, rel=1e-4)


def test_median_scale_by_hand() -> None:
    assert median_scale(np.array([1.0, 2, 9]), np.array([3.0, 5, 6])) == 2.5
    assert median_scale(np.zeros(3), np.ones(3)) == 0


def test_degenerate_predictions_fall_back_to_a_constant() -> None:
    truth = np.array([1.0, 2, 7])
    assert l1_scale_shift(np.full(3, 4.0), truth) == (0.0, 2.0)
    assert l1_scale(np.zeros(3), truth) == 0.0
    assert l1_scale(np.full(3, 4.0), truth) * 4 == 2.0
    assert l1_scale_shift(np.array([1.0, 2, 3]), np.full(3, 5.0)) == (0.0, 5.0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0.01, 100),
    st.floats(-5, 5),
    st.booleans(),
)
def test_fits_undo_an_affine_change_of_the_prediction(
    seed: int, scale: float, shift: float, negative: bool
) -> None:
    predicted, truth = _pair(seed)
    factor = -scale if negative else scale
    assert l1_scale(factor * predicted, truth) * factor == pytest.approx(
        l1_scale(predicted, truth), rel=1e-9
    )
    costs = []
    for moved in (predicted, factor * predicted + shift):
        a, b = l1_scale_shift(moved, truth)
        costs.append(np.abs(a * moved + b - truth).sum())
    assert costs[1] == pytest.approx(costs[0], rel=1e-6)
