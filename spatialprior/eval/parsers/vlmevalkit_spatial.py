"""Letters and numbers as VLMEvalKit's "spatial_bench" datasets read them (EASI), without a judge."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from spatialprior.eval.parsers.first_number import VALUES

_INVISIBLE = re.compile("[\u200b\u200c\u200d\ufeff]")
_TAIL = 800
"""Characters at the end of a reply that are looked at closely."""
_LINES = 6

# A letter first thing within <answer>, then anything up to the closing tag.
_TAGGED = re.compile(
    r"<\s*answer\b[^>]*>\s*([A-J])(?:\s*[.．:：)\]】、])?.*?<\s*/\s*answer\s*>", re.I | re.S
)
_OPEN, _CLOSE = r"[(\[{（【]?", r"[)\]}）】]?"
_BEFORE_TAG = {
    tag: re.compile(rf"(?<![A-Za-z]){_OPEN}\s*([A-F])\s*{_CLOSE}\s*</\s*{tag}\s*>", re.I)
    for tag in ("answer", "think")
}
_LISTED = re.compile(r"^(?:[*_>\-\s]*)(?:option|选项)\s+[A-J]\s*[:：]", re.I)
_WHOLE_LINE = re.compile(r"\s*[*_`>（）\[\]【】()]*\s*([A-Fa-f])\s*[*_`（）\[\]【】()]*\s*")
_LABEL = re.compile(r"\s*([A-F])\s*[.．:：)\]】、-]\s+", re.I)
_IN_LINE = re.compile(
    r"(?<![A-Za-z])[*_`（\[{(]*\s*([A-F])\s*[*_`）\]})]*(?=$|[\s.,:;!?)\]】》」』，。；、：）])"
)
_PHRASE = re.compile(
    r"(?:final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer|"
    r"答案|最终答案|结论|所以|因此|我选(?:择)?|选择|选)"
    rf"\s*[:：>＝=]?\s*{_OPEN}\s*([A-F])\s*{_CLOSE}(?:\b|[.)、。])",
    re.I,
)
_ANYWHERE = re.compile(rf"(?<![A-Za-z]){_OPEN}\s*([A-F])\s*{_CLOSE}(?![A-Za-z])")

_NUMBER = r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?"
_NUMBERS = re.compile(_NUMBER)
_TAGGED_NUMBER = re.compile(
    rf"<\s*answer\b[^>]*>\s*({_NUMBER})(?:[^\d<][^<]*)?<\s*/\s*answer\s*>", re.I | re.S
)
_TO_TWENTY = {word: value for word, value in VALUES.items() if value <= 20}
_WORDS = re.compile(rf"\b({'|'.join(_TO_TWENTY)})\b", re.I)


def option(reply: str) -> str | None:
    """The option's letter, A to F (to J within ``<answer>``); ``None`` where none is found.

    The first of these that finds one: within ``<answer>``; before a closing tag; in the last six lines (after
    the thinking, then of the tail), upwards; after a phrase like "the answer is"; the only upper-case letter
    that stands alone anywhere.

    Source: VLMEvalKit, ``vlmeval/dataset/utils/spatial_bench/matching_func.py``, ``can_match_option``.
    """
    text = _INVISIBLE.sub("", reply.strip())
    tail = text[-_TAIL:]
    for found in (
        _TAGGED.search(text),
        _BEFORE_TAG["answer"].search(tail),
        _BEFORE_TAG["think"].search(tail),
    ):
        if found:
            return found.group(1).upper()
    for part in (_after_thinking(text), tail):
        if letter := _from_lines(part.splitlines()[-_LINES:]):
            return letter
    if found := _PHRASE.search(text):
        return found.group(1).upper()
    rest = "\n".join(line for line in text.splitlines() if not _LISTED.search(line))
    return _only(_ANYWHERE.findall(rest))


def number(reply: str) -> float | None:
    """The number within ``<answer>``, otherwise the last one after the thinking, otherwise the last one.

    English words from zero to twenty count. Of a reply that is a list, only its first entry is read.

    Source: as :func:`option`, ``can_match_na``.
    """
    text = reply
    if reply.strip().startswith("[") and reply.strip().endswith("]"):
        try:
            listed = ast.literal_eval(reply)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
        text = str(listed[0]) if isinstance(listed, list) and listed else reply
    text = _INVISIBLE.sub("", text.strip())
    text = _WORDS.sub(lambda found: _in_digits(found.group()), text)
    if tagged := _TAGGED_NUMBER.search(text):
        return float(tagged.group(1))
    for part in (_after_thinking(text), text):
        if found := _NUMBERS.findall(part):
            return float(found[-1])
    return None


def _in_digits(word: str) -> str:
    value = _TO_TWENTY.get(word.lower())
    return word if value is None else str(value)


def _after_thinking(text: str) -> str:
    for tag in (r"</\s*think\s*>", r"<\s*think\s*>"):
        if ends := [found.end() for found in re.finditer(tag, text, re.I)]:
            return text[ends[-1] :].strip()
    return text


def _from_lines(lines: Iterable[str]) -> str | None:
    """The letter of the lowest line that shows one, and only one."""
    for line in reversed([line.strip() for line in lines if line.strip()]):
        if _LISTED.search(line):
            continue
        if found := _WHOLE_LINE.fullmatch(line) or _LABEL.match(line):
            return found.group(1).upper()
        if letter := _only(_IN_LINE.findall(line)):
            return letter
    return None


def _only(letters: list[str]) -> str | None:
    return letters[0] if len(set(letters)) == 1 else None
