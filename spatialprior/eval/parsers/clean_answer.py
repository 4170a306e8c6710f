"""SQA3D's cleaning of an answer before it is compared, faults included."""

from __future__ import annotations

import re

from spatialprior.eval.parsers.number_words import words_up_to

_TYPOS = {
    "letf": "left",
    "let": "left",
    "tehre": "there",
    "rigth": "right",
    "rght": "right",
    "behine": "behind",
    "tv": "TV",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "oclock": "o'clock",
}
_NUMBERS = {
    **{str(value): word for word, value in words_up_to(20).items()},
    "23": "twenty-three",
    "none": "zero",
}


def clean_answer(text: str) -> str:
    """Lower case, ASCII letters, digits, ``,'-:`` and white space only; known typos, numbers and articles.

    What comes of its order: "1.5" becomes "fifteen"; an article goes once, before a word ("the the chair"
    keeps one); "TV" ends in capitals; curly quotes are gone before they could be straightened.

    Source: LaVi-Lab/Video-3D-LLM, ``llava/eval/eval_sqa3d.py`` (after the benchmark's own code).
    """
    text = text.lower()
    end = "\n" if text.endswith("\n") else ""  # spaces go before it, too
    text = re.sub(" {2,}", " ", text.removesuffix(end).rstrip(" ") + end).removeprefix(" ")
    text = re.sub(r"[^a-z0-9,'\s\-:]+", "", text)
    text = _whole_words(text, _TYPOS)
    text = re.sub(r"\bo' +clock\b", "o'clock", text)
    text = _whole_words(text, _NUMBERS)
    text = re.sub(r"\b([a-zA-Z]+)[0-9]\b", r"\1", text)  # no1, mat2
    for article in ("a", "an", "the"):
        text = re.sub(rf"\b{article}\b ([a-zA-Z]+)", r"\1", text)
    return re.sub(r"\bbackwards\b", "backward", text)


def _whole_words(text: str, meant: dict[str, str]) -> str:
    return re.sub(rf"\b(?:{'|'.join(meant)})\b", lambda found: meant[found.group()], text)
