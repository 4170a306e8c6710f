"""Answers and counts as OST-Bench reads them."""

from __future__ import annotations

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five"),
    *("six", "seven", "eight", "nine", "ten"),
)


def answer_field(reply: str) -> str:
    """What stands behind ``answer`` in a reply that also has a ``reason``; else the whole reply.

    Source: OST-Bench@d393d39, ``evaluation/OST_evaluator.py``, ``process_answer``: single quotes become double
    ones, and the field ends at the reason or at the line's end. Empty where the field is spelt otherwise.
    """
    reply = reply.replace("'", '"')
    if "reason" not in reply or "answer" not in reply:
        return reply.strip('"')
    for field, end in (('"answer":', '"reason"'), ("answer:", "reason")):
        if field in reply:
            text = reply.split(field)[1].split(end)[0].split("\n")[0]
            return text.strip().strip(",").strip().strip('"')
    return ""


def counted(said: str, *, decimals: bool = True) -> int | None:
    """The number that is meant; ``None`` where there is none.

    Source: the same file, ``Enumeration_evalution``. Number words are looked for inside of words, the smaller
    number first: ``network`` is 2 and ``weight`` is 8. Without ``decimals`` (VLMEvalKit), ``3.0`` is none.
    """
    lower = said.lower()
    for number, word in enumerate(NUMBER_WORDS):
        if word in lower:
            return number
    try:
        return int(float(said)) if decimals else int(said)
    except (ValueError, OverflowError):
        return None
