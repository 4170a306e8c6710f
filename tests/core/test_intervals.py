from __future__ import annotations

import math

import numpy as np
import pytest

from spatialprior.core.intervals import clustered_correlation, clustered_interval, paired_interval


def test_mean_and_counts() -> None:
    interval = clustered_interval([0, 1, 1, 1], ["a", "a", "b", "b"])
    assert interval.mean == 0.75
    assert (interval.n, interval.num_clusters) == (4, 2)
    assert (
        interval.low == 0.5 and interval.high == 1.0
    )  # the two clusters' own means are the extremes


def test_width_matches_the_normal_theory_of_independent_clusters() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    interval = clustered_interval(values, np.arange(400))
    expected = 1.96 * values.std() / math.sqrt(400)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.1)


def test_copies_within_a_cluster_add_no_certainty() -> None:
    values = np.random.default_rng(1).normal(size=40)
    once = clustered_interval(values, np.arange(40))
    copied = clustered_interval(np.repeat(values, 25), np.repeat(np.arange(40), 25))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    naive = clustered_interval(np.repeat(values, 25), np.arange(1000))
    assert naive.high - naive.low < 0.3 * (copied.high - copied.low)


def test_one_cluster_has_no_interval() -> None:
    interval = clustered_interval([0.0, 1.0], ["a", "a"])
    assert interval.mean == 0.5 and interval.bounds is None and not interval.excludes_zero


def test_empty() -> None:
    assert clustered_interval([], []).n == 0


def test_paired_difference_is_tighter_than_the_two_apart() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(size=100)
    a, b, clusters = hard + 0.3, hard, np.arange(100)
    paired = paired_interval(a, b, clusters)
    assert paired.mean == pytest.approx(0.3) and paired.excludes_zero
    assert clustered_interval(a, clusters).low < clustered_interval(b, clusters).high


def test_correlation_equals_numpy_and_is_undefined_on_a_constant() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=300) * 1e-4 + 0.004  # as small as the softmax of an untrained model
    y = (x + rng.normal(size=300) * 1e-4 > 0.004).astype(float)
    rho = clustered_correlation(x, y, np.arange(300) // 3)
    assert rho.mean == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    assert rho.low < rho.mean < rho.high and rho.num_clusters == 100
    assert math.isnan(clustered_correlation(x, np.ones(300), np.arange(300)).mean)


def test_lengths_are_checked() -> None:
    with pytest.raises(ValueError, match="cluster names"):
        clustered_interval([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="one to one"):
        paired_interval([1.0, 2.0], [1.0], ["a", "b"])


def test_weights_are_repetitions() -> None:
    values, clusters = [0.2, 0.7, 0.1, 0.9], ["a", "a", "b", "c"]
    weighted = clustered_interval(values, clusters, weights=[1, 3, 2, 1])
    repeated = clustered_interval(np.repeat(values, [1, 3, 2, 1]), [*"aaaabbc"])
    assert (weighted.mean, weighted.low, weighted.high) == pytest.approx(
        (repeated.mean, repeated.low, repeated.high)
    )
    assert weighted.n == 4
    with pytest.raises(ValueError, match="4 values but weights"):
        clustered_interval(values, clusters, weights=[1.0])
