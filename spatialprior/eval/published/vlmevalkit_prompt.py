"""VLMEvalKit's prompt for questions with options, shared by several benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def lettered_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Letter -> text, of the record's columns A to Z that hold something."""
    found = {letter: record.get(letter) for letter in LABELS}
    return {k: v for k, v in found.items() if v is not None and v == v}  # NaN differs from itself


def choice_prompt(question: str, options: Mapping[str, Any]) -> str:
    """Source: VLMEvalKit, ``vlmeval/dataset/image_mcq.py``, ``build_prompt``, without a hint."""
    if not options:
        return f"Question: {question}\n"
    listed = "".join(f"{letter}. {text}\n" for letter, text in options.items())
    ask = "Please select the correct answer from the options above. \n"
    return f"Question: {question}\nOptions:\n{listed}{ask}"
