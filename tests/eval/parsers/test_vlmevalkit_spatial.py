"""Letters and numbers as VLMEvalKit's spatial data sets read them."""

from __future__ import annotations

import pytest

from spatialprior.eval.parsers.vlmevalkit_spatial import number, option


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("<answer>B. table</answer> or C", "B"),
        ("<answer>h</answer>", "H"),
        ("it is (c)</answer>", "C"),
        ("A</think> none", "A"),
        ("**b**", "B"),
        ("b) table", "B"),
        ("I choose B.", "B"),
        ("A and B", None),
        ("A and B\nSo C!", "C"),
        ("Option A: chair\nOption B: table", None),
        ("<think>A\n</think>\nthe answer is b", "A"),  # before </think> comes first
        ("answer: b, not A or C", "B"),
        ("\u200bD", "D"),
        ("G", None),
        ("", None),
    ],
)
def test_option(reply: str, letter: str | None) -> None:
    assert option(reply) == letter


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("<answer>3 m</answer> 4", 3.0),
        ("between 2 and 4.5", 4.5),
        ("<think>7</think> two", 2.0),
        ("<think>7</think> many", 7.0),
        ("twenty-one", -1.0),
        ("[5, 6]", 5.0),
        ("[x, 6]", None),
        ("[]", None),
        ("1e400", float("inf")),
        ("many", None),
    ],
)
def test_number(reply: str, value: float | None) -> None:
    assert number(reply) == value
