"""The option letter as MindCube reads it: patterns in a fixed order, the last match of the first that fits."""

from __future__ import annotations

import re

_DOTTED = re.compile(r"([A-E])\.")
_SECTION = re.compile(r"<Answer>(.*?)(?:<|$)", re.DOTALL)
_BARE = re.compile(r"\b([A-E])\b")
_MINE = re.compile(r"[Mm]y answer is ([A-E])")
_IN_SECTION = (_MINE, re.compile(r"[Tt]he answer is ([A-E])"), _BARE)
_ANYWHERE = (
    re.compile(r"(?:^|\n)(?:Answer: )?([A-E])(?:$|\s)"),
    re.compile(r'[*"]([A-E])[*"]'),
    re.compile(r"\bAnswer:?\s*([A-E])\b"),
    _MINE,
    re.compile(r"answer is ([A-E])"),
)


def ordered_letters(reply: str) -> str | None:
    """The letter that a reply means, ``None`` where no pattern fits.

    Source: MindCube@6d8fd9a, ``src/evaluation/core/extractors.py``, ``extract_answer``. A letter before a full
    stop wins wherever it stands, even at the end of ``U.S.A.``; so its patterns of the form ``A. text`` never
    come up later and are not repeated here. The tag is ``<Answer>`` with a capital; the last resort takes the
    lowest line that has a letter, and the first letter in it.
    """
    if found := _DOTTED.findall(reply):
        return str(found[-1])
    section = _SECTION.search(reply)
    said = None if section is None else _last(_IN_SECTION, section.group(1))
    return said or _last(_ANYWHERE, reply) or _lowest(reply)


def _last(patterns: tuple[re.Pattern[str], ...], text: str) -> str | None:
    for pattern in patterns:
        if found := pattern.findall(text):
            return str(found[-1])
    return None


def _lowest(text: str) -> str | None:
    for line in reversed(text.split("\n")):
        if found := _BARE.search(line):
            return found.group(1)
    return None
