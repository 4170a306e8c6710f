"""Camera motion as ``move_right:0.3,rotate_left:10``, the answers of SPAR-Bench's view change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

AXES = (
    ("move_right", "move_left"),
    ("move_up", "move_down"),
    ("move_forward", "move_backward"),
    ("rotate_right", "rotate_left"),
    ("rotate_up", "rotate_down"),
)
_MOVE = re.compile(
    r"(move|rotate)[_ ](right|left|up|down|forward|backward)\b[\"'` ]*[:=]\s*([-+]?\d*\.?\d+)",
    re.IGNORECASE,
)


def exact_moves(text: str) -> dict[str, float]:
    """As the official code reads them: keys keep the blanks around them, so ``, move_up:1`` is no known move.

    Raises:
        ValueError: An item between commas is not ``key:number``.
    """
    moves = {}
    for item in text.split(","):
        key, number = item.split(":")
        moves[key] = float(number)
    return moves


def trimmed_moves(text: str) -> dict[str, float]:
    """As VLMEvalKit reads them: keys are stripped, and items that are not ``key:number`` are passed over."""
    moves = {}
    for item in text.split(","):
        key, colon, number = item.partition(":")
        if not colon:
            continue
        with suppress(ValueError):
            moves[key.strip()] = float(number)
    return moves


def found_moves(text: str) -> dict[str, float]:
    """Every known move with a number, wherever it stands in ``text``; the last one of a kind counts."""
    return {f"{kind}_{way}".lower(): float(number) for kind, way, number in _MOVE.findall(text)}


def along_axes(moves: Mapping[str, float]) -> tuple[float, ...]:
    """Right, up, forward, turn right, turn up: signed; 0 where nothing is said."""
    return tuple(moves.get(ahead, 0.0) - moves.get(back, 0.0) for ahead, back in AXES)
