"""The one option that a reply names by letter or else by text: what VLMEvalKit tries before a judge."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NO_OPTION = "Z"
"""What stands for a refusal, or for "none of them"."""

_FAILED = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"(?i:answer\s+is)\s+\**([ABCD])\**(?![A-Za-z0-9])")


def vlmevalkit_choice(
    reply: str, options: Mapping[str, Any], *, recent: bool = False
) -> str | None:
    """The option's letter, :data:`NO_OPTION` for a refusal, ``None`` where a judge would be asked.

    A letter counts as a word of its own between white space and the characters ``.()[],:;!*#{}``; two
    different ones cancel each other. Without a letter, the text of exactly one option must occur in the reply.
    A word ``Z`` counts where no other letter does, and before any text.

    Source: ``can_infer`` in VLMEvalKit, ``vlmeval/utils/matching_util.py`` (with VERBOSE unset).

    Args:
        reply: What the model said.
        options: Letter -> text.
        recent: As in 2026: a letter must be among the last four words, ``answer is **B**`` is understood,
            and a reply more than twice as long as all options together is not searched for their texts.
            Otherwise as in the fork that All-Angles Bench scores with.
    """
    if _FAILED not in reply:
        if any(refusal in reply for refusal in _REFUSALS):
            return NO_OPTION
        letter = _letter(reply, options, recent)
        if letter is not None:
            return letter
    return _by_text(reply.lower(), {k: str(v).lower() for k, v in options.items()}, recent)


def _letter(reply: str, options: Mapping[str, Any], recent: bool) -> str | None:
    words = reply.translate(_PUNCTUATION).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1 and (not recent or words.index(found[0]) > len(words) - 5):
        return found[0]
    if not found and NO_OPTION in words:
        return NO_OPTION
    stated = _STATED.search(reply) if recent else None
    return stated[1] if stated and stated[1] in options else None


def _by_text(reply: str, texts: Mapping[str, str], recent: bool) -> str | None:
    if recent and len(reply) > 2 * sum(map(len, texts.values())):
        return None
    found = [letter for letter, text in texts.items() if text in reply]
    return found[0] if len(found) == 1 else None
