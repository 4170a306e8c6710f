"""The letter that a reply states, as lmms-eval 0.7.3 reads BLINK."""

from __future__ import annotations

import re


def stated_letter(reply: str, letters: str) -> str | None:
    """The first of these that finds one of ``letters`` (upper case), or ``None``.

    1. A first line of at most four characters that is a letter and punctuation.
    2. The last ``answer is X``, ``answer: X`` and the like, of any case.
    3. The last ``(X)``, upper case.
    4. A letter at the very start, of any case, whatever follows: ``Because`` is B.

    Source: lmms-eval 0.7.3, ``tasks/blink/utils.py``, ``_extract_answer_letter``.
    """
    text, one = reply.strip(), f"([{re.escape(letters)}])"
    line = text.split("\n", 1)[0].strip()
    alone = re.match(rf"\(?{one}\)?[.\s:,)]*$", line, re.IGNORECASE) if len(line) <= 4 else None
    if alone:
        return alone[1].upper()
    says = rf"answers?(?:\s+is)?\s*[:\-]?\s*\(?{one}\)?(?![A-Za-z])"
    for found in (re.findall(says, text, re.IGNORECASE), re.findall(rf"\({one}\)", text)):
        if found:
            return str(found[-1]).upper()
    first = re.match(rf"[(\s]*{one}", text, re.IGNORECASE)
    return first[1].upper() if first else None
