"""Replies: strict equality after normalisation."""

from __future__ import annotations

import pytest

from spatialprior.core.clip import Question
from spatialprior.eval.answers import chance, is_correct, normalise, parse_reply


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("left", "left"),
        ("  Left. ", "left"),
        ("(LEFT)", "left"),
        ("ＬＥＦＴ", "left"),
        ("not left", None),
        ("left right", None),
        ("lef", None),
        ("", None),
        ("...", None),
    ],
)
def test_options_are_matched_whole(reply: str, expected: str | None) -> None:
    assert parse_reply(reply, ("left", "right")) == expected


def test_options_keep_their_spelling_and_inner_punctuation() -> None:
    assert parse_reply("b.", ("A", "B")) == "B"
    assert parse_reply("0.5", ("0.5", "5")) == "0.5"
    assert parse_reply("cell  C\nk", ("cell c k", "cell c j")) == "cell c k"


def test_free_text_is_normalised() -> None:
    assert parse_reply(" Two. ") == "two"
    assert parse_reply(" ! ") is None
    assert normalise('"(A)  Left."') == "a left"


def test_indistinct_options_are_an_error() -> None:
    with pytest.raises(ValueError, match="not distinct"):
        parse_reply("a", ("A", "a."))


def test_correctness_and_chance() -> None:
    question = Question("t", "?", "Left", ("Left", "Right", "Up", "Down"))
    assert is_correct("left", question) and not is_correct("right", question)
    assert not is_correct(None, question)
    assert chance(question) == 0.25
    assert chance(Question("t", "?", "free")) == 0.0
