"""Mean relative accuracy of quantities that may be zero or negative."""

from __future__ import annotations

from spatialprior.eval.metrics.relative_accuracy import THRESHOLDS


def guarded_accuracy(said: float, truth: float) -> float:
    """Share of θ with ``|said - truth| / |truth| <= 1 - θ``; where ``truth`` is 0, the error is absolute.

    Source: SPAR, ``lmms_eval/tasks/sparbench/utils.py``, ``mean_relative_accuracy`` and ``abs_dist_norm``.
    """
    error = abs((said - truth) / truth) if truth != 0 else abs(said)
    return float((error <= 1 - THRESHOLDS).mean())
