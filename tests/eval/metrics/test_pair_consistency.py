"""Pairs of linked questions, against counts made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.metrics.pair_consistency import consistency, link, linked_pairs

SAME = dict.fromkeys("abcdef", "counting")


def test_each_pair_once_and_the_unlinked_and_dangling_in_none() -> None:
    links = [("a", "c"), ("b", None), ("c", "a"), ("d", "missing"), ("e", "f"), ("f", "e")]
    assert linked_pairs(links, SAME) == ([("a", "c"), ("e", "f")], [])


@pytest.mark.parametrize(
    ("links", "pairs", "broken"),
    [
        (
            [("a", "b"), ("b", "c"), ("c", "b")],
            [("b", "c")],
            ["question a is linked to b, but b to c"],
        ),
        ([("a", "b"), ("b", None)], [], ["question a is linked to b, but b to None"]),
        ([("a", "a")], [], ["question a is linked to itself"]),
        (
            [("a", "b"), ("b", "a"), ("a", None)],
            [("a", "b")],
            ["two questions have the index a"],
        ),
    ],
)
def test_links_that_are_no_pairs(
    links: list[tuple[str, str | None]], pairs: list[tuple[str, str]], broken: list[str]
) -> None:
    assert linked_pairs(links, SAME) == (pairs, broken)


def test_halves_of_different_categories() -> None:
    kinds = {"a": "counting", "b": "manipulation"}
    pairs, broken = linked_pairs([("a", "b"), ("b", "a")], kinds)
    assert pairs == []
    assert broken[0] == "questions a and b are linked, but are counting and manipulation"
    assert len(broken) == 2


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (7, "7"),
        (7.0, "7"),
        ("7", "7"),
        (" 7 ", "7"),
        (0, "0"),
        (None, None),
        ("", None),
        (float("nan"), None),
        ("nan", None),
        ([], None),
    ],
)
def test_one_spelling_of_a_link(value: object, name: str | None) -> None:
    assert link(value) == name


def test_consistency_in_percent_of_pairs() -> None:
    pairs = [(True, True)] * 3 + [(False, False)] * 2 + [(True, False)] * 4 + [(False, True)]
    assert consistency(pairs) == {"CC": 30.0, "WW": 20.0, "IC": 50.0}
    assert consistency([]) == {}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_the_three_make_the_whole(pairs: list[tuple[bool, bool]]) -> None:
    found = consistency(pairs)
    assert sum(found.values()) == pytest.approx(100)
    right = sum(a + b for a, b in pairs)
    assert found["CC"] + found["IC"] / 2 == pytest.approx(100 * right / (2 * len(pairs)))
