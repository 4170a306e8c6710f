"""Pairs of questions about the same thing from two sides: both right, both wrong, or inconsistent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def link(value: Any) -> str | None:
    """A question's number in one spelling: 7, 7.0 and "7" are one; missing, empty and NaN are ``None``."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip()
    return None if text.lower() in ("", "nan", "none", "null", "[]") else text


def linked_pairs(
    links: Iterable[tuple[str, str | None]], categories: Mapping[str, str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Pairs of questions that name each other, each pair once, in the order of their first halves.

    A question without a link, or whose twin is not there, is in no pair.

    Args:
        links: Question and its twin.
        categories: Of every question.

    Returns:
        The pairs; and a line for each link that makes none although its twin is there: one that is not mutual,
        leads to itself or to another category, or comes from a number that two questions have.
    """
    twins: dict[str, str | None] = {}
    broken = []
    for name, twin in links:
        if name in twins:
            broken.append(f"two questions have the index {name}")
        twins.setdefault(name, twin)
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for name, twin in twins.items():
        if twin is None or twin not in twins:
            continue
        if twin == name:
            broken.append(f"question {name} is linked to itself")
        elif twins[twin] != name:
            broken.append(f"question {name} is linked to {twin}, but {twin} to {twins[twin]}")
        elif categories[name] != categories[twin]:
            kinds = f"{categories[name]} and {categories[twin]}"
            broken.append(f"questions {name} and {twin} are linked, but are {kinds}")
        else:
            pairs.setdefault(frozenset((name, twin)), (name, twin))
    return list(pairs.values()), broken


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
