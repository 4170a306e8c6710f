from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.metrics.closest_option import closest_option, common_subsequence
from spatialprior.eval.metrics.stepped_accuracy import stepped_accuracy


@pytest.mark.parametrize(
    ("said", "options", "index"),
    [
        ("YES ", ["no", "yes"], 1),
        ("", ["no", "yes"], 0),
        ("chair", ["armchair", "chair"], 0),  # both hold it whole; the earlier one wins
        ("chair", ["chair", "armchair"], 0),
        ("front", ["left", "front left"], 1),
    ],
)
def test_the_closest_option(said, options, index):
    assert closest_option(said, options) == index


def test_without_options_there_is_none():
    with pytest.raises(ValueError, match="no options"):
        closest_option("yes", [])


@given(st.text(alphabet="abc", max_size=7), st.text(alphabet="abc", max_size=7))
def test_a_common_subsequence_is_as_long_as_by_definition(first, second):
    def slow(one: str, other: str) -> int:
        if not one or not other:
            return 0
        if one[0] == other[0]:
            return 1 + slow(one[1:], other[1:])
        return max(slow(one[1:], other), slow(one, other[1:]))

    assert common_subsequence(first, second) == slow(first, second)


@pytest.mark.parametrize(
    ("said", "truth", "score"),
    [
        (1.0, 1.0, 1.0),
        (1.1, 1.0, 0.8),  # strict, where VSI-Bench gives 0.9
        (1.05, 1.0, 0.9),
        (0.5, 1.0, 0.0),
        (1.5, 1.0, 0.0),
        (-2.0, -2.0, 1.0),
        (float("inf"), 1.0, 0.0),
        (float("nan"), 1.0, 0.0),
    ],
)
def test_a_tenth_for_each_bound_that_is_met(said, truth, score):
    assert stepped_accuracy(said, truth) == pytest.approx(score)


def test_a_true_value_of_zero_has_no_relative_error():
    with pytest.raises(ZeroDivisionError):
        stepped_accuracy(1.0, 0.0)
