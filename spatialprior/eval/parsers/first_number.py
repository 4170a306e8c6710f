"""The first number of a reply, in digits or in English words, as lmms-eval 0.7.3 reads VSI-Bench."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
_WORDS = re.compile(r"[a-z]+")

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
"""English number words that count."""


def first_number(reply: str) -> float | None:
    """The number that begins first, be it digits or a run of number words; ``None`` without one.

    Digits end at a comma (``3,000`` is 3). A run of words goes on over "and" and over anything that is no
    letter, and ends at the first other word: "twenty-one", "three hundred and two".

    Source: lmms-eval 0.7.3, ``tasks/vsibench/utils.py``, ``extract_number``.

    Raises:
        OverflowError: Words make a number beyond float64 ("hundred" two hundred times).
    """
    text = reply.strip().lower()
    digits = _DIGITS.search(text)
    words = _run(text)
    if digits is not None and (words is None or digits.start() < words[0]):
        return float(digits.group())
    return None if words is None else float(_value(words[1]))


def _run(text: str) -> tuple[int, list[str]] | None:
    """Where the first run of number words begins, and its words."""
    start, run = 0, list[str]()
    for found in _WORDS.finditer(text):
        word = found.group()
        if word in VALUES:
            start = start if run else found.start()
            run.append(word)
        elif run and word != "and":
            break
    return (start, run) if run else None


def _value(words: list[str]) -> int:
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
