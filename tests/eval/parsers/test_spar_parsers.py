"""Numbers and camera motions in replies, as SPAR-Bench and VLMEvalKit read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.parsers.camera_moves import (
    along_axes,
    exact_moves,
    found_moves,
    trimmed_moves,
)
from spatialprior.eval.parsers.unsigned_numbers import unsigned_numbers


@pytest.mark.parametrize(
    ("reply", "numbers"),
    [
        ("2.5 m", [2.5]),
        ("-3", [3]),
        ("about 2 or 3.5", [2, 3.5]),
        ("^12", [2]),
        ("x^3", []),
        ("1,200", [1, 200]),
        ("1e400", [1, 400]),
        (".5", [5]),
        ("5.", [5]),
        ("1.2.3", [1.2, 3]),
        ("٣.٤", [3.4]),
        ("three", []),
        ("nan inf", []),
        ("", []),
    ],
)
def test_unsigned_numbers(reply: str, numbers: list[float]) -> None:
    assert unsigned_numbers(reply) == numbers


def test_more_digits_than_python_reads_are_an_error() -> None:
    with pytest.raises(ValueError, match="4300"):
        unsigned_numbers("7" * 4301)


@pytest.mark.parametrize(
    ("text", "exact", "trimmed"),
    [
        ("move_right:1,move_up:2", (1, 2, 0, 0, 0), (1, 2, 0, 0, 0)),
        ("move_right:1, move_up:2", (1, 0, 0, 0, 0), (1, 2, 0, 0, 0)),
        ("move_left:1,move_down:2", (-1, -2, 0, 0, 0), (-1, -2, 0, 0, 0)),
        ("move_left: 1.5 ", (-1.5, 0, 0, 0, 0), (-1.5, 0, 0, 0, 0)),
        ("move_forward:1,move_backward:3", (0, 0, -2, 0, 0), (0, 0, -2, 0, 0)),
        ("rotate_left:30,rotate_down:10", (0, 0, 0, -30, -10), (0, 0, 0, -30, -10)),
        ("rotate_up:1,rotate_up:2", (0, 0, 0, 0, 2), (0, 0, 0, 0, 2)),
        ("MOVE_UP:1", (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
        ("", None, (0, 0, 0, 0, 0)),
        ("move_up", None, (0, 0, 0, 0, 0)),
        ("move_up:1,", None, (0, 1, 0, 0, 0)),
        ("move_up:1:2", None, (0, 0, 0, 0, 0)),
        ("move_up:one,move_right:1", None, (1, 0, 0, 0, 0)),
    ],
)
def test_moves(text: str, exact: tuple[float, ...] | None, trimmed: tuple[float, ...]) -> None:
    assert along_axes(trimmed_moves(text)) == trimmed
    if exact is None:
        with pytest.raises(ValueError, match=r"unpack|convert"):
            exact_moves(text)
    else:
        assert along_axes(exact_moves(text)) == exact


def test_moves_are_found_wherever_they_stand() -> None:
    said = "First Move_Right: 0.5 m; then `rotate left` = -3."
    assert found_moves(said) == {"move_right": 0.5, "rotate_left": -3.0}
    assert found_moves("move up a bit") == {}


@given(st.text("move_rightleftupdown:,. 0123456789-\n", max_size=40))
def test_any_text_gives_five_axes(text: str) -> None:
    assert len(along_axes(trimmed_moves(text))) == len(along_axes(found_moves(text))) == 5
