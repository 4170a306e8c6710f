"""SQA3D's cleaning, with what comes of its order."""

from __future__ import annotations

import pytest

from spatialprior.eval.parsers.clean_answer import clean_answer


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  Right.  ", "right"),
        ("the chair", "chair"),
        ("a an the chair", "chair"),
        ("the the chair", "the chair"),
        ("a", "a"),
        ("television or tv", "television or TV"),
        ("letf, rigth, rght, behine", "left, right, right, behind"),
        ("o'  clock", "o'clock"),
        ("10 oclock", "ten o'clock"),
        ("none", "zero"),
        ("0", "zero"),
        ("20", "twenty"),
        ("21", "21"),
        ("23", "twenty-three"),
        ("1.5", "fifteen"),
        ("no1 mat2 x23", "no mat x23"),
        ("Backwards", "backward"),
        ("o’clock", "o'clock"),  # the quote is dropped, and then a typo is mended
        ("it’s", "its"),
        ("façade", "faade"),
        ("right\n", "right\n"),
        ("right \n", "right\n"),
        ("", ""),
    ],
)
def test_clean_answer(text: str, clean: str) -> None:
    assert clean_answer(text) == clean
