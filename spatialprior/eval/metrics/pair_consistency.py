"""Pairs of questions about the same thing from two sides: both right, both wrong, or inconsistent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


class PairError(ValueError):
    """Links between questions that make no pairs. One line."""


def link(value: Any) -> str | None:
    """A question's number in one spelling: 7, 7.0 and "7" are one; missing, empty and NaN are ``None``."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return None if text.lower() in ("", "nan", "none", "null", "[]") else text


def linked_pairs(
    links: Iterable[tuple[str, str | None]], categories: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Pairs of questions that name each other, each pair once, in the order of their first halves.

    A question without a link, or whose twin is not there, is in no pair.

    Args:
        links: Question and its twin.
        categories: Of every question.

    Raises:
        PairError: A twin names another question or none, a question names itself, two questions have one
            number, or the halves differ in category.
    """
    twins: dict[str, str | None] = {}
    for name, twin in links:
        if name in twins:
            raise PairError(f"two questions have the index {name}")
        twins[name] = twin
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for name, twin in twins.items():
        if twin is None or twin not in twins:
            continue
        if twin == name:
            raise PairError(f"question {name} is linked to itself")
        if twins[twin] != name:
            raise PairError(
                f"question {name} is linked to {twin}, but {twin} to {twins[twin] or 'none'}"
            )
        if categories[name] != categories[twin]:
            raise PairError(
                f"questions {name} and {twin} are linked, but are {categories[name]} and {categories[twin]}"
            )
        pairs.setdefault(frozenset((name, twin)), (name, twin))
    return list(pairs.values())


def consistency(pairs: Iterable[tuple[bool, bool]]) -> dict[str, float]:
    """``CC`` both right, ``WW`` both wrong, ``IC`` exactly one right, in percent of pairs; empty without any.

    Source: All-Angles Bench (arXiv 2504.15280), consistency of paired questions.
    """
    right = [first + second for first, second in pairs]
    if not right:
        return {}
    return {
        name: 100 * right.count(n) / len(right) for name, n in (("CC", 2), ("WW", 0), ("IC", 1))
    }
