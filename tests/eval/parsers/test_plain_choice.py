from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.parsers.plain_choice import (
    lettered,
    named_option,
    plain_choice,
    plain_number,
)

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
        ("I'd say the armchair", "D"),
        ("（Ｂ）", "B"),
        ("B, since it is near", "B"),
        ("The answer is: B.", "B"),
        ("First I thought the answer is A, but the answer is C", "C"),
        ("<think>A or B?</think><answer>C</answer>", "C"),
        ("A chair is closer, so I say B", "B"),
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


def test_labels_are_no_part_of_options():
    options = lettered(["A. chair", "table", "C. a lamp", 7])
    assert options == {"A": "chair", "B": "table", "C": "a lamp", "D": "7"}
    assert [plain_choice(reply, options) for reply in ("A lamp", "A. chair", "7")] == [
        "C",
        "A",
        "D",
    ]


def test_letters_without_texts_are_read_too():
    for texts in ("ABCDEF", [""] * 6):
        options = lettered(texts)
        assert [plain_choice(r, options) for r in ("f", "so (B)", "G")] == ["F", "B", None]


def test_an_option_within_a_longer_one_does_not_count():
    assert named_option("to the front left of it", ["left", "front left", "back"]) == 1
    assert named_option("left, front left", ["left", "back"]) == 0
    assert named_option("nothing", ["left", "back"]) is None


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("3.5 m", 3.5),
        ("about three metres", 3.0),
        ("There are three", 3.0),
        ("twenty-one", 21.0),
        ("Three hundred and two steps", 302.0),
        ("one or two", None),
        ("hundred " * 200, None),  # beyond float64
        ("3m", 3.0),
        ("About 3 meters", 3.0),
        ("25 m2", 25.0),
        ("2.5 ft^2", 2.5),
        ("in room25", 25.0),
        ("the room has 25 m^2", 25.0),
        ("25 m²", 25.0),
        ("10^5", None),
        ("1,234", 1234.0),
        ("1,200 square meters", 1200.0),
        ("-2", -2.0),
        ('{"answer": "2.5", "reason": "1 and 2"}', 2.5),
        ("from 2 to 4", None),
        ("3 of the 5", None),
        ("many", None),
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
