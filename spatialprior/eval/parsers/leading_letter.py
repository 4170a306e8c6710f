"""The letter that a reply begins with, as lmms-eval reads CV-Bench."""

from __future__ import annotations

import re

_LETTER = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)


def leading_letter(reply: str) -> str:
    """The first letter after opening brackets and white space, upper case; empty where there is none.

    Nothing has to follow it: "Because" gives ``B``. Source: lmms-eval 0.7.3, ``tasks/cv_bench/utils.py``.
    """
    found = _LETTER.match(reply.strip())
    return found.group(1).upper() if found else ""
