"""The first word of a reply, as VSI-Bench reads it."""

from __future__ import annotations


def first_word(reply: str) -> str:
    r"""Up to the first space, without full stops at its end, then without white space.

    Source: thinking-in-space, ``lmms_eval/tasks/vsibench/utils.py``, ``fuzzy_matching``. In this order:
    ``"3.\n"`` gives ``3.``, and a reply that begins with a space gives nothing.
    """
    return reply.split(" ")[0].rstrip(".").strip()


def to_float(text: str | float) -> float | None:
    """``float(text)``, ``None`` where it is no number; takes what Python takes, such as ``1_0`` and ``nan``."""
    try:
        return float(text)
    except (ValueError, OverflowError):  # the latter: an int of more than 308 digits
        return None
