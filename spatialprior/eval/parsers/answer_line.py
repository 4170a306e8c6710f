"""What OmniSpatial takes for the answer, in the three ways in which it asks for one."""

from __future__ import annotations

import json
import re

_LINE = re.compile(r"Answer\s*:\s*([A-D])\b", re.IGNORECASE)
_THOUGHT = (re.compile(r"^.*?</think>", re.DOTALL), re.compile(r"^.*?</thought>", re.DOTALL))
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def answer_line(reply: str) -> str | None:
    """The letter of the last ``Answer: X``, as it was typed; ``None`` without one (scored as ``A``).

    Source: OmniSpatial@208bac2, ``vlms_eval/qwenvl_eval.py``, ``eval_type`` ``re``. A small letter is found but
    equals no answer, so it hides an earlier right one.
    """
    found = _LINE.findall(reply)
    return str(found[-1]) if found else None


def first_character(reply: str) -> str:
    """The first character, in capitals: ``eval_type`` ``direct`` of the same file."""
    return reply.strip().upper()[:1]


def json_answer_letter(reply: str) -> str | None:
    """The first character of ``answer`` in a JSON reply; ``None`` where it cannot be read (scored as ``A``).

    ``eval_type`` ``json`` of the same file: without ``answer`` it is ``A``, and an empty one stays empty.
    """
    text = reply.strip().removeprefix("```json").removesuffix("```").strip()
    try:
        return str(json.loads(text).get("answer", "A").strip().upper()[:1])
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None


def without_thought(reply: str) -> str:
    """What follows a thought, within ``<answer>`` tags if there are any.

    Source: lmms-eval 0.7.3, ``tasks/omni_spatial/utils.py``, ``_strip_think``.
    """
    for pattern in _THOUGHT:
        reply = pattern.sub("", reply)
    tagged = _TAGGED.search(reply)
    return (tagged.group(1) if tagged else reply).strip()
