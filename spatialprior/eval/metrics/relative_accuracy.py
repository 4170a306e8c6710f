"""Mean relative accuracy (MRA): how many of ten tolerances a number meets."""

from __future__ import annotations

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Confidences θ. The official code asks for 10.99… of them and truncates; eleven would be wrong."""


def mean_relative_accuracy(said: float, truth: float, *, strict: bool = False) -> float:
    """Share of θ with ``|said - truth| / truth <= 1 - θ``, in float64 (``<`` where ``strict``).

    Source: VSI-Bench (arXiv 2412.14171, eq. 1) and its code; OST-Bench is strict.

    Raises:
        ZeroDivisionError: ``truth`` is 0.
    """
    return share_of_tolerances(abs(said - truth) / truth, strict=strict)


def share_of_tolerances(error: float, *, strict: bool = False) -> float:
    """Share of θ with ``error <= 1 - θ``, in float64 (``<`` where ``strict``)."""
    met = error < 1 - THRESHOLDS if strict else error <= 1 - THRESHOLDS
    return float(met.mean())
