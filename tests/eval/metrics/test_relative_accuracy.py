"""MRA: the thresholds as numpy makes them."""

from __future__ import annotations

import pytest

from spatialprior.eval.metrics.relative_accuracy import THRESHOLDS, mean_relative_accuracy


@pytest.mark.parametrize(
    ("said", "plain", "strict"),
    [
        (1.0, 1.0, 1.0),
        (1.05, 1.0, 0.9),
        (1.1, 0.9, 0.8),
        (0.5, 0.1, 0.0),
        (1.5, 0.1, 0.0),
        (1.51, 0.0, 0.0),
        (float("inf"), 0.0, 0.0),
        (float("nan"), 0.0, 0.0),
    ],
)
def test_thresholds_are_inclusive_unless_strict(said: float, plain: float, strict: float) -> None:
    assert len(THRESHOLDS) == 10
    assert mean_relative_accuracy(said, 1.0) == plain
    assert mean_relative_accuracy(said, 1.0, strict=True) == strict


def test_a_true_zero_is_an_error() -> None:
    with pytest.raises(ZeroDivisionError):
        mean_relative_accuracy(1.0, 0.0)
