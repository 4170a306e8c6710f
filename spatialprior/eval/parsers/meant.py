"""Our own reading of a reply: what a person would take it for. For ``saner`` rules, never for official ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from spatialprior.eval.answers import normalise
from spatialprior.eval.parsers.first_number import VALUES

_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(r"^\(?([A-Z])(?:[.):,]|\s*$)")
_STATED = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+is)?[\s:*(\[]*([A-Z])\b(?!')", re.IGNORECASE
)
_TOKEN = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_ARTICLE = re.compile(r"\bA\s+(?!or\b|and\b|is\b)[a-z]")
_NUMBER = re.compile(
    rf"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|\b(?:{'|'.join(VALUES)})\b", re.IGNORECASE
)


def meant_letter(reply: str, options: Sequence[str]) -> str | None:
    """The option's letter that a reply means; ``None`` where it is unclear.

    In this order: a label that it begins with ("B", "(B)", "B. chair"); what follows its last "answer is";
    the only upper-case letter that stands alone; the only option whose text it equals.

    Args:
        reply: What the model said.
        options: Texts of the options, labelled ("A. chair") or not.
    """
    letters = [chr(65 + index) for index in range(len(options))]
    text = _conclusion(reply).strip(" \t\n\r*_`\"'")
    if (label := _LABEL.match(text)) and label.group(1) in letters:
        return label.group(1)
    if (bare := text.strip("().,:").upper()) in letters:
        return bare
    stated = [found for found in _STATED.findall(text) if found in letters]
    if stated:
        return stated[-1]
    alone = {found for found in _TOKEN.findall(_ARTICLE.sub("", text)) if found in letters}
    if len(alone) == 1:
        return alone.pop()
    said = normalise(text)
    equal = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if said and said in (normalise(option), normalise(option.removeprefix(f"{letter}.")))
    ]
    return equal[0] if len(equal) == 1 else None


def meant_number(reply: str) -> float | None:
    """The number that a reply means; ``None`` without one.

    The one that it begins with, otherwise its last one; ``1,200`` is 1200, and English words up to nineteen
    and the tens count.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", _conclusion(reply).strip())
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    said = (found[0] if found[0].start() == 0 else found[-1]).group().lower()
    return float(VALUES.get(said, said))


def _conclusion(reply: str) -> str:
    """Without what was thought aloud, and within ``<answer>`` where there is one."""
    text = unicodedata.normalize("NFKC", reply).rpartition("</think>")[2]
    tagged = _TAGGED.findall(text)
    return tagged[-1] if tagged else text
