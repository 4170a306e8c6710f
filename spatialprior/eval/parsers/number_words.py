"""English number words, for every parser that knows some."""

from __future__ import annotations

from collections.abc import Iterable

# fmt: off
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on

VALUES: dict[str, int] = {
    **{word: value for value, word in enumerate(_UNITS)},
    **{word: 10 * ten for ten, word in enumerate(_TENS, start=2)},
    "hundred": 100,
    "thousand": 1000,
}
"""Word -> value, the smallest first."""


def words_up_to(limit: int) -> dict[str, int]:
    """Word -> value of those up to ``limit``, the smallest first."""
    return {word: value for word, value in VALUES.items() if value <= limit}


def value_of(words: Iterable[str]) -> int:
    """What a run of words amounts to, each a key of :data:`VALUES`: "three hundred two" is 302.

    Source: lmms-eval 0.7.3, ``tasks/vsibench/utils.py``; other words than multipliers are added up.
    """
    total = current = 0
    for word in words:
        value = VALUES[word]
        if value == 1000:
            total, current = total + max(current, 1) * 1000, 0
        elif value == 100:
            current = max(current, 1) * 100
        else:
            current += value
    return total + current
