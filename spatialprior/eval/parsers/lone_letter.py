"""The first lone letter, as ViewSpatial-Bench reads it."""

from __future__ import annotations

import re

_LONE = re.compile(r"\b([A-D])\b", re.IGNORECASE)


def lone_letter(text: str) -> str | None:
    """The first of A to D that is a word of its own, in capitals; ``None`` without one.

    Source: ViewSpatial-Bench@2e85a5e, ``evaluate.py``, ``extract_option`` (lmms-eval 0.7.3 has the same).
    Small letters count, so the article ``a`` is A and the end of ``I'd`` is D.
    """
    found = _LONE.search(text)
    return found.group(1).upper() if found else None


def lone_letter_of_last_line(reply: str) -> str | None:
    """The same in what follows the last line break, which is nothing where a reply ends in one."""
    return lone_letter(reply.split("\n")[-1])
