"""The option letter as STI-Bench reads it."""

from __future__ import annotations

import re

_PHRASES = tuple(
    re.compile(phrase, re.IGNORECASE | re.MULTILINE)
    for phrase in (
        r"\(([A-E])\)",
        r"Ans\s*=\s*['\"]?([A-E])",
        r"Answer\s*[:=]\s*([A-E])",
        r"Option\s+([A-E])",
        r"\b([A-E])\s*(?:is|was)\s*correct",
        r"\b([A-E])[.)]\s*$",
    )
)


def option_phrase(reply: str) -> str:
    """The letter of the first phrase that occurs, in capitals; else the reply without outer white space.

    Source: STI-Bench@43ddebe, ``opensource_test.py``, ``extract_answer``. The order of the phrases beats their
    place in the reply, and nothing bounds most letters: ``Answer: Because`` gives B.
    """
    for phrase in _PHRASES:
        if found := phrase.search(reply):
            return found.group(1).upper()
    return reply.strip()
