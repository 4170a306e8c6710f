"""What a careful reader takes a reply for: an option, a number. Ours, for the rules called ``saner``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from spatialprior.eval.answers import normalise
from spatialprior.eval.parsers.answer_field import NUMBER_WORDS

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL | re.IGNORECASE)
_WRAPPED = (
    re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE),
    re.compile(r"\\boxed\{([^{}]*)\}"),
    re.compile(r"[\"']answer[\"']\s*:\s*[\"']?([^\"'\n,}]*)"),
)
_EDGES = " \t\r\n*_`\"'()[]{}<>.,:;!"
_STATED = re.compile(
    r"(?i:\b(?:answer|option|choice)\b(?:\s+is)?)\s*[:=]?[\s*_`\"'(\[]{0,6}([A-Z])\b(?!['’])"
)
_LABEL = re.compile(r"^\W*([A-Z])\s*[.):\]]", re.MULTILINE)
_LONE = re.compile(r"\b(A(?!\s(?!or\b|and\b|is\b)[a-z])|[B-Z])\b(?!['’])")  # "A chair" is no A
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_WORDS = {word: number for number, word in enumerate((*NUMBER_WORDS, "eleven", "twelve"))}
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b", re.IGNORECASE)


def final_part(reply: str) -> str:
    """What is left of a reply without its thought, and of that what is wrapped as the answer."""
    text = _THOUGHT.sub("", reply).strip() or reply.strip()
    for wrapping in _WRAPPED:
        if found := wrapping.findall(text):
            return str(found[-1]).strip()
    return text


def plain_choice(reply: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that a reply means; ``None`` where it means none, or several.

    In this order: a bare letter; the last stated one (``the answer is B``); the only label (``B. left``); the
    text of an option; the only lone capital; the only option whose text occurs.

    Args:
        reply: What the model said.
        options: Letter -> text.
    """
    text = final_part(reply)
    if (bare := text.strip(_EDGES).upper()) in options:
        return bare
    stated = [letter for letter in _STATED.findall(text) if letter in options]
    if stated:
        return str(stated[-1])
    if label := _only([letter for letter in _LABEL.findall(text) if letter in options]):
        return label
    texts = {normalise(option): letter for letter, option in options.items()}
    if len(texts) == len(options) and normalise(text) in texts:
        return texts[normalise(text)]
    if lone := _only([letter for letter in _LONE.findall(text) if letter in options]):
        return lone
    index = named_option(text, list(options.values()))
    return None if index is None else list(options)[index]


def named_option(text: str, options: Sequence[str]) -> int | None:
    """Index of the only option whose words occur in ``text``, not counting those inside a longer one's."""
    said = f" {normalise(text)} "
    found = [i for i, option in enumerate(options) if f" {normalise(option)} " in said]
    longest = [
        i
        for i in found
        if not any(
            i != j and f" {normalise(options[i])} " in f" {normalise(options[j])} " for j in found
        )
    ]
    return longest[0] if len(longest) == 1 else None


def plain_number(reply: str) -> float | None:
    """The only number or number word of the answer, without units and thousands separators; else ``None``."""
    text = final_part(reply)
    found = {float(number.replace(",", "")) for number in _NUMBER.findall(text)}
    found |= {float(_WORDS[word.lower()]) for word in _WORD.findall(text)}
    return found.pop() if len(found) == 1 else None


def _only(letters: Sequence[str]) -> str | None:
    return letters[0] if len(set(letters)) == 1 else None
