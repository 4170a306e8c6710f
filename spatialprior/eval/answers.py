"""From what a model typed to one of the answers asked for. Strict: equal after normalisation, or nothing.

No search inside the reply: "not left" must not count as "left".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from spatialprior.core.clip import Question

_WRAPPING = ".,;:!?\"'`*()[]{}<>"
"""Stripped from both ends of every word; inside a word it stays, so that 0.5 is not 05."""


def normalise(text: str) -> str:
    """Lower case, single spaces, no punctuation around words: ``"  (A) Left. "`` is ``"a left"``."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = (word.strip(_WRAPPING) for word in re.split(r"\s+", folded))
    return " ".join(word for word in words if word)


def parse_reply(reply: str, options: Sequence[str] = ()) -> str | None:
    """The option that ``reply`` equals after normalisation, as the question spells it.

    Without options: the normalised reply. ``None`` where nothing fits or nothing was said.

    Raises:
        ValueError: Two options are equal after normalisation, so no reply could tell them apart.
    """
    said = normalise(reply)
    if not options:
        return said or None
    known = {normalise(option): option for option in options}
    if len(known) != len(options):
        raise ValueError(
            f"options {', '.join(map(repr, options))} are not distinct once normalised"
        )
    return known.get(said)


def is_correct(parsed: str | None, question: Question) -> bool:
    """Whether a parsed reply is the expected answer."""
    return parsed is not None and normalise(parsed) == normalise(question.answer)


def chance(question: Question) -> float:
    """Probability that a uniform guess among the options is right; 0 for free text."""
    return 1 / len(question.options) if question.options else 0.0
