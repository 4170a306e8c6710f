"""Intervals that respect clusters: anchors and questions of one room are not independent.

Cluster bootstrap: whole clusters are drawn with replacement, so a statistic that is a ratio of sums
(a mean, a correlation) needs only each cluster's sums. Deterministic in ``seed``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DRAWS_PER_CHUNK = 256  # bounds memory when there are many thousand clusters


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: Over all values; NaN without values.
        low, high: Percentile bounds; NaN with fewer than two clusters, where nothing can be said.
        n: Number of values.
        num_clusters: Number of independent groups behind them.
    """

    mean: float
    low: float
    high: float
    n: int
    num_clusters: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside (false where the bounds are unknown)."""
        return self.low > 0 or self.high < 0

    @property
    def bounds(self) -> list[float] | None:
        """``[low, high]`` for JSON, ``None`` where unknown."""
        return (
            [self.low, self.high] if math.isfinite(self.low) and math.isfinite(self.high) else None
        )


def _cluster_sums(
    moments: NDArray[np.float64], clusters: Sequence[Hashable] | NDArray[np.generic]
) -> NDArray[np.float64]:
    """Add rows of ``n M`` per cluster: ``C M``, clusters in order of first appearance."""
    names = clusters.tolist() if isinstance(clusters, np.ndarray) else list(clusters)
    if len(names) != len(moments):
        raise ValueError(f"{len(moments)} values but {len(names)} cluster names")
    order: dict[Hashable, int] = {}
    ids = np.array([order.setdefault(name, len(order)) for name in names], dtype=np.int64)
    return np.stack(
        [np.bincount(ids, column, minlength=len(order)) for column in moments.T], axis=1
    )


def _draws(sums: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Sums of ``draws`` resamples of the clusters: ``draws M``."""
    rng = np.random.Generator(np.random.PCG64(seed))
    num = len(sums)
    parts = []
    for start in range(0, draws, _DRAWS_PER_CHUNK):
        picked = rng.integers(num, size=(min(_DRAWS_PER_CHUNK, draws - start), num))
        # Counts of each cluster in each draw, so that the resampled sums are one matrix product.
        flat = picked + np.arange(len(picked))[:, None] * num
        parts.append(np.bincount(flat.ravel(), minlength=len(picked) * num).reshape(-1, num) @ sums)
    return np.concatenate(parts)


def _bounds(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def clustered_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic],
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of ``values`` with a cluster-bootstrap interval.

    Args:
        values: ``n`` numbers or booleans.
        clusters: ``n`` names; values that share a name are kept together.
        weights: ``n`` positive numbers, for a weighted mean; all the same when left out.
        level: Coverage.
        draws: Bootstrap resamples.
        seed: Of the resampling.

    Raises:
        ValueError: The lengths differ.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if not len(array):
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    weight = np.ones_like(array) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != array.shape:
        raise ValueError(f"{len(array)} values but weights of shape {weight.shape}")
    sums = _cluster_sums(np.stack([array * weight, weight], axis=1), clusters)
    low = high = math.nan
    if len(sums) > 1:
        resampled = _draws(sums, draws, seed)
        low, high = _bounds(resampled[:, 0] / resampled[:, 1], level)
    mean = float(np.average(array, weights=weight))
    return Interval(mean, low, high, len(array), len(sums))


def paired_interval(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of ``a - b`` over the same items, with its interval (see :func:`clustered_interval`).

    Raises:
        ValueError: The lengths differ.
    """
    left, right = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    if len(left) != len(right):
        raise ValueError(f"paired values must match one to one, got {len(left)} and {len(right)}")
    return clustered_interval(left - right, clusters, level=level, draws=draws, seed=seed)


def _pearson(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation from rows of (n, x, y, xx, yy, xy); NaN where a variance vanishes."""
    n, x, y, xx, yy, xy = sums.T
    var_x, var_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        # Rounding leaves ~1e-16 of a constant's variance: treat it as the zero it is.
        degenerate = (var_x <= 1e-14) | (var_y <= 1e-14)
        rho = (xy / n - x * y / n**2) / np.sqrt(var_x * var_y)
    return np.where(degenerate, np.nan, rho)


def clustered_correlation(
    x: ArrayLike,
    y: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[np.generic],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Pearson correlation of ``x`` and ``y``; ``mean`` holds the coefficient, NaN where undefined.

    Raises:
        ValueError: The lengths differ.
    """
    left, right = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if len(left) != len(right):
        raise ValueError(f"a correlation needs pairs, not {len(left)} and {len(right)} values")
    if not len(left):
        return Interval(math.nan, math.nan, math.nan, 0, 0)
    # Standardised first: raw moments of tiny confidences (1/N tokens) would cancel badly.
    left = (left - left.mean()) / (left.std() or 1.0)
    right = (right - right.mean()) / (right.std() or 1.0)
    moments = np.stack([np.ones_like(left), left, right, left**2, right**2, left * right], axis=1)
    sums = _cluster_sums(moments, clusters)
    low = high = math.nan
    if len(sums) > 1:
        low, high = _bounds(_pearson(_draws(sums, draws, seed)), level)
    return Interval(
        float(_pearson(sums.sum(axis=0, keepdims=True))[0]), low, high, len(left), len(sums)
    )
