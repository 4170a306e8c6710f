"""What several benchmarks write behind or before a question, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable

LETTER = "Answer with the option's letter from the given choices directly."
"""As CV-Bench, MMSI-Bench, SPAR-Bench and VSI-Bench ask for an option."""

SHORT = "Please answer the question using a single word or phrase."
"""As VSI-Bench and SPAR-Bench ask for a number."""


def only_letters(letters: Iterable[str]) -> str:
    """Source: lmms-eval 0.7.3, ``tasks/blink`` and ``tasks/cv_bench``."""
    listed = ", ".join(letters)
    return f"Note: You only need to respond with {listed} without providing any additional information."
