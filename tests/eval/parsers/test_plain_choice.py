from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.parsers.plain_choice import named_option, plain_choice, plain_number

OPTIONS = {"A": "left", "B": "front-left", "C": "chair", "D": "armchair", "E": "back"}


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("(b)\n", "B"),
        ("**B. front-left**", "B"),
        ("The answer is **C**.", "C"),
        ("Option B is right, not A", "B"),
        ("Answer: back", "E"),
        ("Left", "A"),
        ("It is the armchair.", "D"),
        ("A chair is there", "C"),
        ("<think>A</think>B", "B"),
        ("<answer>B. front-left</answer>", "B"),
        ('{"answer": "E", "reason": "neither A nor B"}', "E"),
        (r"\boxed{C}", "C"),
        ("I'd say D", "D"),
        ("A. left\nB. front-left", None),
        ("B or C", None),
        ("A or B", None),
        ("left or back", None),
        ("F", None),
        ("Because", None),
        ("", None),
    ],
)
def test_what_a_reader_would_take_it_for(reply, letter):
    assert plain_choice(reply, OPTIONS) == letter


def test_an_option_within_a_longer_one_does_not_count():
    assert named_option("to the front left of it", ["left", "front left", "back"]) == 1
    assert named_option("left, front left", ["left", "back"]) == 0
    assert named_option("nothing", ["left", "back"]) is None


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("3.5 m", 3.5),
        ("about three metres", 3.0),
        ("1,234", 1234.0),
        ("-2", -2.0),
        ('{"answer": "2.5", "reason": "1 and 2"}', 2.5),
        ("from 2 to 4", None),
        ("someone", None),
        ("", None),
    ],
)
def test_a_number_with_its_unit(reply, number):
    assert plain_number(reply) == number


@given(st.text())
def test_any_reply_is_an_option_or_nothing(reply):
    assert plain_choice(reply, OPTIONS) in {*OPTIONS, None}
    assert plain_choice(reply, {}) is None
    number = plain_number(reply)
    assert number is None or isinstance(number, float)
