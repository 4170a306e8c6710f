"""Which source comes next, so that at every moment each has had its share to within one draw."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np

MAX_ROUND = 100_000
"""Longest round that is laid out in advance (0.2 s and 0.6 MB)."""


class Interleave:
    """A fixed order of draws from weighted sources.

    After n draws source i has had ``n * weight[i] / sum(weights)`` of them, give or take less than one. The
    j-th draw of a source may come once its share reaches j, and must come before its share reaches j + 1;
    among those that may, the one that must come first is taken (earliest deadline first, which meets all
    deadlines). Whole weights make the order repeat after their sum, so one round is laid out once and any
    position is looked up, without going through those before it.

    Args:
        weights: Positive; ratios of them that need a round longer than :data:`MAX_ROUND` are refused.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        shares = _whole(weights)
        self.round = sum(shares)
        self._per_round = shares
        self._source, self._rank = _lay_out(shares)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """``(source, how many draws that source has had before)`` of draw ``position``."""
        if position < 0:
            raise IndexError(f"position {position} is negative")
        lap, place = divmod(position, self.round)
        source = int(self._source[place])
        return source, lap * self._per_round[source] + int(self._rank[place])


def _whole(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers in the same ratio as the weights, read as the decimals that were written."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(fraction.denominator for fraction in exact))
    whole = [int(fraction * scale) for fraction in exact]
    common = gcd(*whole)
    whole = [number // common for number in whole]
    if sum(whole) > MAX_ROUND:
        total = sum(exact)
        rounded = [max(1, round(1000 * fraction / total)) for fraction in exact]
        raise ValueError(
            f"weights {_listed(weights)} repeat only after {sum(whole)} draws, more than {MAX_ROUND}; round "
            f"them, for example to {_listed(rounded)}"
        )
    return whole


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _lay_out(shares: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Source and rank within that source, for every draw of a round."""
    total = sum(shares)
    source = np.empty(total, np.min_scalar_type(len(shares)))
    rank = np.empty(total, np.int32)
    waiting = [(0, i, 0) for i in range(len(shares))]  # (may come from, source, its draw)
    ready: list[tuple[int, int, int]] = []  # (must come before, source, its draw)
    for position in range(total):
        while waiting and waiting[0][0] <= position:
            _, i, j = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(j + 1) * total // shares[i]), i, j))
        _, i, j = heapq.heappop(ready)
        source[position], rank[position] = i, j
        heapq.heappush(waiting, ((j + 1) * total // shares[i], i, j + 1))
    return source, rank
