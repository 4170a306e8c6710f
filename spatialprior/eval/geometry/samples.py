"""What one clip gives to one figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from spatialprior.eval.geometry.similarity import Array


@dataclass(frozen=True)
class Samples:
    """``n`` values and their weights; a figure is the weighted mean over the samples of all clips.

    Attributes:
        values, weights: ``n``.
    """

    values: Array
    weights: Array

    @classmethod
    def even(cls, values: ArrayLike) -> Samples:
        """Values that weigh the same."""
        array = np.asarray(values, dtype=np.float64)
        return cls(array, np.ones(len(array)))

    @property
    def mean(self) -> float | None:
        """The weighted mean, ``None`` without values."""
        if not len(self.values):
            return None
        return float(np.average(self.values, weights=self.weights))
