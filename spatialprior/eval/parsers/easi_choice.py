"""The option letter as VLMEvalKit reads it in the spatial benchmarks that EASI added to it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LINES, _WINDOW = 6, 800  # the last lines, and the last characters, that are looked at

_ZERO_WIDTH = re.compile("[\u200b\u200c\u200d\ufeff]")
_TAGGED = re.compile(
    r"<\s*answer\b[^>]*>\s*([A-J]).*?<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL
)
_BEFORE_END = tuple(
    re.compile(
        rf"(?<![A-Za-z])[(\[{{（【]?\s*([A-F])\s*[)\]}}）】]?\s*</\s*{tag}\s*>", re.IGNORECASE
    )
    for tag in ("answer", "think")
)
_THOUGHT_END = re.compile(r"</\s*think\s*>", re.IGNORECASE)
_THOUGHT_START = re.compile(r"<\s*think\s*>", re.IGNORECASE)
_LISTED = re.compile(r"^[*_>\-\s]*(?:option|选项)\s+[A-J]\s*[:：]", re.IGNORECASE)
_ALONE = re.compile(r"\s*[*_`>（）\[\]【】()]*\s*([A-Fa-f])\s*[*_`（）\[\]【】()]*\s*")
_LABEL = re.compile(r"\s*([A-F])\s*[.．:：)\]】、-]\s+", re.IGNORECASE)
_TOKEN = re.compile(
    r"(?<![A-Za-z])[*_`（\[{(]*\s*([A-F])\s*[*_`）\]})]*(?=$|[\s.,:;!?)\]】》」』，。；、：）])"
)
_PHRASE = re.compile(
    r"(?:final\s*answer|the\s*answer\s*is|answer(?:\s*is)?|correct\s*answer|"
    r"答案|最终答案|结论|所以|因此|我选(?:择)?|选择|选)"
    r"\s*[:：>＝=]?\s*[(\[{（【]?\s*([A-F])\s*[)\]}）】]?(?:\b|[.)、。])",
    re.IGNORECASE,
)
_ANYWHERE = re.compile(r"(?<![A-Za-z])[(\[{（【]?\s*([A-F])\s*[)\]}）】]?(?![A-Za-z])")


def easi_choice(reply: str) -> str | None:
    """A letter of A to F (A to J within ``<answer>`` tags), ``None`` where none is certain.

    In this order: within tags; right before ``</answer>`` or ``</think>``; in the last lines after the thought,
    then of the end of the whole reply, from the lowest up; behind a phrase such as ``the answer is``; the only
    capital letter that stands alone anywhere.

    Source: VLMEvalKit, ``vlmeval/dataset/utils/spatial_bench/matching_func.py``, ``can_match_option``.
    """
    text = _ZERO_WIDTH.sub("", reply.strip())
    end = text[-_WINDOW:]
    for pattern, part in ((_TAGGED, text), *((each, end) for each in _BEFORE_END)):
        if found := pattern.search(part):
            return found.group(1).upper()
    if letter := _of_lines(_after_thought(text)) or _of_lines(end):
        return letter
    if found := _PHRASE.search(text):
        return found.group(1).upper()
    unlisted = [line for line in text.splitlines() if not _LISTED.search(line)]
    return _only(_ANYWHERE.findall("\n".join(unlisted)))


def _after_thought(text: str) -> str:
    for mark in (_THOUGHT_END, _THOUGHT_START):
        if found := list(mark.finditer(text)):
            return text[found[-1].end() :].strip()
    return text


def _of_lines(text: str) -> str | None:
    for line in reversed([line.strip() for line in text.splitlines()[-_LINES:]]):
        if not line or _LISTED.search(line):
            continue
        if found := _ALONE.fullmatch(line) or _LABEL.match(line):
            return found.group(1).upper()
        if letter := _only(_TOKEN.findall(line)):
            return letter
    return None


def _only(letters: Sequence[str]) -> str | None:
    return letters[0] if len(set(letters)) == 1 else None
