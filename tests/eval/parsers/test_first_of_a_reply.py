"""Parsers that look at how a reply begins: VSI-Bench's, lmms-eval's and Cambrian's."""

from __future__ import annotations

import pytest

from spatialprior.eval.parsers.after_answer import first_character
from spatialprior.eval.parsers.first_number import first_number
from spatialprior.eval.parsers.first_word import first_word, to_float
from spatialprior.eval.parsers.leading_letter import leading_letter


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("A", "A"),
        ("A.", "A"),
        ("a", "a"),
        ("A\n", "A"),
        ("3 chairs", "3"),
        ("B...", "B"),
        ("(A)", "(A)"),
        ("A,", "A,"),
        (" A", ""),
        (" 3", ""),
        ("B.\n", "B."),  # full stops go before white space
        ("3.\n", "3."),
        ("3\nm", "3\nm"),
        ("About 3", "About"),
        ("A\u00a0or B", "A\u00a0or"),
        ("", ""),
    ],
)
def test_first_word(reply: str, word: str) -> None:
    assert first_word(reply) == word


@pytest.mark.parametrize(
    ("text", "number"),
    [("3.", 3.0), ("1_0", 10.0), ("٣", 3.0), ("1e400", float("inf")), ("3m", None), ("", None)],
)
def test_to_float_takes_what_python_takes(text: str, number: float | None) -> None:
    assert to_float(text) == number
    assert to_float(10**400) is None


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("3", 3.0),
        (" There are 3 boxes", 3.0),
        ("3,000", 3.0),
        ("-2.5 m", -2.5),
        ("Three boxes.", 3.0),
        ("twenty-one", 21.0),
        ("three hundred and twenty-one", 321.0),
        ("two thousand and five", 2005.0),
        ("one apple, room 2", 1.0),
        ("room 2, one apple", 2.0),
        ("one 2 three", 4.0),
        ("two chairs and three tables", 2.0),
        ("hundred", 100.0),
        ("none", None),
        ("", None),
    ],
)
def test_first_number(reply: str, number: float | None) -> None:
    assert first_number(reply) == number


def test_first_number_beyond_float_is_an_error() -> None:
    with pytest.raises(OverflowError):
        first_number("hundred " * 200)


@pytest.mark.parametrize(
    ("reply", "character"),
    [
        ("B", "b"),
        ("(B)", "b"),
        ("((B) chair", "b"),
        ("The answer is B.", "b"),
        ("The answer is: B", ":"),
        ("Answer: (B)", "b"),
        ("answer: A. No, answer: B", "b"),
        ("Answer: A, so the answer is C", "c"),
        ("Because", "b"),
        ("**B**", "*"),
        (".", ""),
        ("", ""),
    ],
)
def test_first_character_after_the_answer(reply: str, character: str) -> None:
    assert first_character(reply) == character


def test_omni3d_strips_more_at_the_end() -> None:
    assert (first_character(":"), first_character(":", ".:,")) == (":", "")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A answer1", "A"),
        ("(B) answer", "B"),
        ("  ((c)", "C"),
        ("Because", "B"),
        ("The answer is A", "T"),
        ("**A**", ""),
        ("1. A", ""),
        ("", ""),
    ],
)
def test_leading_letter(reply: str, letter: str) -> None:
    assert leading_letter(reply) == letter
