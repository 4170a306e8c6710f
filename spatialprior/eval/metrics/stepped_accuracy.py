"""Relative accuracy of a number as OST-Bench counts it."""

from __future__ import annotations

_CONFIDENCES = tuple(0.5 + 0.05 * i for i in range(10))
"""As its code writes them: two differ from ``numpy.linspace`` in the last bit, which a strict bound notices."""


def stepped_accuracy(said: float, truth: float) -> float:
    """A tenth for each confidence θ with ``|truth - said| / |truth| < 1 - θ``.

    Source: OST-Bench@d393d39, ``evaluation/OST_evaluator.py``, ``Estimation_evaluation``. Unlike the mean
    relative accuracy of VSI-Bench the bound itself does not count, and ``truth`` may be negative.

    Raises:
        ZeroDivisionError: ``truth`` is 0.
    """
    error = abs(truth - said) / abs(truth)
    return 0.1 * sum(error < 1 - confidence for confidence in _CONFIDENCES)
