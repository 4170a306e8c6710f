"""Which option a free reply is closest to, by the longest common subsequence of characters."""

from __future__ import annotations

from collections.abc import Sequence


def closest_option(said: str, options: Sequence[str]) -> int:
    """Index of the option with the longest common subsequence, in lower case; the first of those that tie.

    An empty reply has nothing in common with any, so it is the first option.

    Source: OST-Bench@d393d39, ``evaluation/OST_evaluator.py``, ``Judgement_evalution``.

    Raises:
        ValueError: There are no options.
    """
    if not options:
        raise ValueError("there are no options to choose from")
    said = said.strip().lower()
    lengths = [common_subsequence(said, option.strip().lower()) for option in options]
    return lengths.index(max(lengths))


def common_subsequence(first: str, second: str) -> int:
    """Length of the longest common subsequence of two texts, in characters."""
    row = [0] * (len(second) + 1)
    for character in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = diagonal + 1 if character == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]
