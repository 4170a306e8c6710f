"""Relative accuracy where the truth may be zero or negative."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.metrics.guarded_accuracy import guarded_accuracy


@pytest.mark.parametrize(
    ("said", "truth", "score"),
    [
        (1, 1, 1.0),
        (1.05, 1, 1.0),
        (1.1, 1, 0.9),
        (0.5, 1, 0.1),
        (1.5, 1, 0.1),
        (0.4, 1, 0.0),
        (-1, -1, 1.0),
        (1, -1, 0.0),
        (0, 0, 1.0),
        (0.19, 0, 0.7),
        (-0.5, 0, 0.1),
        (1, 0, 0.0),
        (math.nan, 1, 0.0),
        (1, math.nan, 0.0),
        (math.inf, math.inf, 0.0),
    ],
)
def test_by_hand(said: float, truth: float, score: float) -> None:
    assert guarded_accuracy(said, truth) == score


@given(st.floats(), st.floats())
def test_a_share_of_ten(said: float, truth: float) -> None:
    assert 10 * guarded_accuracy(said, truth) in range(11)
