"""Our own reading of replies."""

from __future__ import annotations

import pytest

from spatialprior.eval.parsers.meant import meant_letter, meant_number

OPTIONS = ("A. chair", "B. table", "C. a lamp")


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B)", "B"),
        ("**B**", "B"),
        ("B, since it is near", "B"),
        ("B. table", "B"),
        ("The answer is: B.", "B"),
        ("First I thought the answer is A, but the answer is C", "C"),
        ("<think>A or B?</think><answer>C</answer>", "C"),
        ("A table is closer, so I say B", "B"),
        ("I'd say the table", None),
        ("table", "B"),
        ("A lamp", "C"),
        ("A or B", None),
        ("D", None),
        ("Because", None),
        ("", None),
    ],
)
def test_meant_letter(reply: str, letter: str | None) -> None:
    assert meant_letter(reply, OPTIONS) == letter


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("3", 3.0),
        (" 3m", 3.0),
        ("About 3 meters", 3.0),
        ("1,200 square meters", 1200.0),
        ("3 of the 5", 3.0),
        ("Table 2 is 4.5 m away", 4.5),
        ("There are three", 3.0),
        ("-2", -2.0),
        ("many", None),
        ("", None),
    ],
)
def test_meant_number(reply: str, number: float | None) -> None:
    assert meant_number(reply) == number
