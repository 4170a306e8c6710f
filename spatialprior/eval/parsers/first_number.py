"""The first number of a reply, in digits or in English words, as lmms-eval 0.7.3 reads VSI-Bench."""

from __future__ import annotations

import re

from spatialprior.eval.parsers.number_words import VALUES, value_of

_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
_WORDS = re.compile(r"[a-z]+")


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
    return None if words is None else float(value_of(words[1]))


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
