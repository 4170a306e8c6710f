"""Letters in replies, as All-Angles, BLINK, MMSI-Bench and their harnesses read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.parsers.bracketed_letter import bracketed_letter
from spatialprior.eval.parsers.quoted_letter import quoted_letter, quoted_letter_any_case
from spatialprior.eval.parsers.stated_letter import stated_letter
from spatialprior.eval.parsers.vlmevalkit_choice import NO_OPTION, vlmevalkit_choice

OPTIONS = {"A": "red chair", "B": "blue chair", "C": "table"}
FAR = "B x x x x x x x x x x"
VERBOSE = "The correct answer is **B**. Because A ..."
ANY_REPLY = st.one_of(
    st.text(),
    st.text("ABCDEFZabcdefz ().,:;!*#{}[]`'\n\t\r\u00a0Ａ", max_size=20),
    st.lists(st.sampled_from([*"ABCZ", "(A)", "(B)", "`", "``", "answer is", "\n\n", "table"])).map(
        " ".join
    ),
)


@pytest.mark.parametrize(
    ("reply", "fork", "recent"),
    [
        ("B", "B", "B"),
        ("(B).", "B", "B"),
        ("[C]", "C", "C"),
        ("**A**", "A", "A"),
        (FAR, "B", None),
        (VERBOSE, None, "B"),
        ("A or B", None, None),
        ("B. B. B.", "B", "B"),
        ("b", None, None),
        ("the TABLE", "C", "C"),
        ("a chair", None, None),
        ("red chair and table", None, None),
        ("table " + "x" * 50, "C", None),
        ("Z", NO_OPTION, NO_OPTION),
        ("Z, the table", NO_OPTION, NO_OPTION),
        ("Z B", "B", "B"),
        ("I can't process this file. B", NO_OPTION, NO_OPTION),
        ("Failed to obtain answer via API B", None, None),
        ("Failed to obtain answer via API table", "C", "C"),
        ("the answer is a table", "C", "C"),
        ("A sofa stands in the room", "A", None),
        ('"B"', None, None),
        ("", None, None),
        (" \n", None, None),
    ],
)
def test_vlmevalkit_choice(reply: str, fork: str | None, recent: str | None) -> None:
    assert vlmevalkit_choice(reply, OPTIONS) == fork
    assert vlmevalkit_choice(reply, OPTIONS, recent=True) == recent


def test_an_empty_option_is_in_every_reply_and_numbers_are_texts() -> None:
    assert vlmevalkit_choice("no idea", {"A": "", "B": "two"}) == "A"
    assert vlmevalkit_choice("it is 2.5", {"A": 2.5, "B": 3}) == "A"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("A", "(A)"),
        ("(A)", "(A)"),
        ("E", "(E)"),
        ("(E)", "(E)"),
        ("A.", None),
        ("a", None),
        (" A", None),
        ("", None),
        ("(A) A is closer", "(A)"),
        ("(A),", None),
        ("(A).", None),
        ("**(A)**", None),
        ("I say (B) here", "(B)"),
        ("(A) or (B)", None),
        ("(A) (A)", "(A)"),
        ("(A) or (B)\n\nso (B)", "(B)"),
        ("(A) first\n\nno letter here", "(A)"),
        ("(A) or (B)\n\nneither", None),
        ("(A)\n\n(A) (B)", None),
        ("it is (C)", None),
        ("AB", None),
    ],
)
def test_bracketed_letter_of_two_options(reply: str, said: str | None) -> None:
    assert bracketed_letter(reply, 2) == said


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("A answer1", "A"),
        ("A) answer2", "A"),
        ("(b) answer", "B"),
        ("c.", "C"),
        ("A.\nB", "A"),
        ("The correct answer is (B).", "B"),
        ("I think the answer is C because ...", "C"),
        ("answer A, answer: b", "B"),
        ("the answer is a dog", "A"),
        ("the answer is absent", None),
        ("absent", "A"),
        ("so I pick (C), not (b)", "C"),
        ("Because", "B"),
        ("The left one", None),
        ("D", None),
        ("", None),
    ],
)
def test_stated_letter_of_three_options(reply: str, said: str | None) -> None:
    assert stated_letter(reply, "ABC") == said


@pytest.mark.parametrize(
    ("reply", "said", "any_case"),
    [
        ("``B``", "B", "B"),
        ("`B`", "B", "B"),
        ("`` `C` ``", None, None),
        ("`````C`", None, None),
        ("A, so ``B``", "B", "B"),
        ("````A", None, None),
        ("``A`` then `B`", "A", "A"),
        ("`A` then ``B``", "B", "B"),
        ("{D}", "D", "D"),
        ("A {D}", "A", "D"),
        ("``A`` {D}", "A", "A"),
        ("A bike is B.", "B", "B"),
        ("A\nbike", None, None),
        ("A\tbike", None, None),
        ("A\u00a0bike", None, None),
        ("A  bike", "A", "A"),
        ("A 3", "A", "A"),
        ("A été", "A", "A"),
        ("AB", None, None),
        ("A_", None, None),
        ("E", None, "E"),
        ("b", None, "B"),
        ("I'd", None, "D"),
        ("", None, None),
    ],
)
def test_quoted_letter(reply: str, said: str | None, any_case: str | None) -> None:
    assert quoted_letter(reply) == said
    assert quoted_letter_any_case(reply) == any_case


@given(ANY_REPLY)
def test_whatever_is_said_gives_an_offered_letter_or_nothing(reply: str) -> None:
    for recent in (False, True):
        assert vlmevalkit_choice(reply, OPTIONS, recent=recent) in {None, NO_OPTION, *OPTIONS}
    assert bracketed_letter(reply, 3) in {None, *(f"({letter})" for letter in "ABCDE")}
    assert stated_letter(reply, "ABC") in {None, *"ABC"}
    assert quoted_letter(reply) in {None, *"ABCD"}
    assert quoted_letter_any_case(reply) in {None, *"ABCDEF"}


@given(st.sampled_from("ABC"))
def test_a_bare_letter_is_understood_by_all(letter: str) -> None:
    assert (
        vlmevalkit_choice(letter, OPTIONS)
        == vlmevalkit_choice(letter, OPTIONS, recent=True)
        == letter
    )
    assert bracketed_letter(letter, 3) == f"({letter})"
    assert stated_letter(letter, "ABC") == quoted_letter(letter) == letter
