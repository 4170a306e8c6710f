"""Letters and numbers as VLMEvalKit's spatial data sets read them."""

from __future__ import annotations

import pytest

from spatialprior.eval.parsers.vlmevalkit_spatial import number, option


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("<answer>B. table</answer> or C", "B"),
        ("<answer>h</answer>", "H"),
        ("<answer>J. x</answer>", "J"),
        ("< answer id='1'> c </ answer >", "C"),
        ("it is (c)</answer>", "C"),
        ("A</think> none", "A"),
        ("so D</think> it is", "D"),
        ("<think>A or B</think>\nC. left", "B"),
        ("B", "B"),
        ("**b**", "B"),
        ("b) table", "B"),
        ("I choose B.", "B"),
        ("A and B", None),
        ("A and B\nSo C!", "C"),
        ("A\nB\nC", "C"),
        ("Option A: chair\nOption B: table", None),
        ("It is D, surely", "D"),
        ("<think>A\n</think>\nthe answer is b", "A"),  # before </think> comes first
        ("answer: b, not A or C", "B"),
        ("答案：d。", "D"),
        ("答案：d吧", None),
        ("\u200bD\ufeff", "D"),
        ("(G)", None),
        ("xB", None),
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
