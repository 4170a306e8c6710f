"""A letter in backticks, or standing alone, as MMSI-Bench reads it."""

from __future__ import annotations

import re

_QUOTES = (r"``([^`]*)``", r"`([^`]*)`")
_BRACES = r"\{([^}]*)\}"


def quoted_letter(reply: str) -> str | None:
    """The first upper-case A to D that stands alone, within backticks where there are any.

    Double backticks are opened first, then single ones in what they hold; an empty pair leaves nothing to
    find. A letter followed by one white space character and an ASCII letter is passed over, as an article.

    Source: InternRobotics/MMSI-Bench, ``vlmeval/dataset/mmsi_bench.py``,
    ``extract_single_choice_with_word_boundary``.
    """
    return _alone(_opened(reply, _QUOTES), "A-D")


def quoted_letter_any_case(reply: str) -> str | None:
    """The same with braces opened too, A to F, of any case: ``I'd`` is D. In upper case.

    Source: lmms-eval 0.7.3, ``tasks/mmsi_bench/utils.py``.
    """
    found = _alone(_opened(reply, (*_QUOTES, _BRACES)), "A-F", re.IGNORECASE)
    return found.upper() if found else None


def _opened(text: str, brackets: tuple[str, ...]) -> str:
    for pattern in brackets:
        found = re.search(pattern, text)
        text = found[1] if found else text
    return text


def _alone(text: str, letters: str, flags: re.RegexFlag = re.NOFLAG) -> str | None:
    found = re.search(rf"\b[{letters}]\b(?!\s[a-zA-Z])", text, flags)
    return found[0] if found else None
