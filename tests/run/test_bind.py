"""YAML values onto dataclasses: what fits, and how what does not is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from spatialprior.run.bind import bind
from spatialprior.run.errors import ConfigError


@dataclass
class Inner:
    rank: int = 4


@dataclass
class Sample:
    root: Path
    steps: int = 1
    rate: float = 0.1
    on: bool = False
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[float, float] = (0.0, 1.0)
    sides: tuple[int, ...] = (8,)
    layers: str | list[int] = "all"
    inner: Inner | None = None
    table: dict[str, float] = field(default_factory=dict)
    anything: Any = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must not be negative")


def test_values_take_the_types_of_the_fields():
    found = bind(
        Sample,
        {
            "root": "/a",
            "steps": 1e3,
            "rate": 2,
            "on": True,
            "mode": "slow",
            "pair": [1, 2],
            "sides": [8, 24],
            "layers": [0, 3],
            "inner": {"rank": 2},
            "table": {"a": 1},
            "anything": [None],
        },
        "x",
    )
    assert found == Sample(
        Path("/a"),
        1000,
        2.0,
        True,
        "slow",
        (1.0, 2.0),
        (8, 24),
        [0, 3],
        Inner(2),
        {"a": 1.0},
        [None],
    )
    assert isinstance(found.steps, int)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "x.root has no value and needs one; add x.root=PATH"),
        ({"root": "???"}, "x.root has no value"),
        ({"stepz": 1}, "unknown setting x.stepz; did you mean x.steps? Choose from: anything, "),
        ({"steps": "three"}, "x.steps=three: expected a whole number"),
        ({"steps": 1.5}, "x.steps=1.5: expected a whole number"),
        ({"steps": True}, "x.steps=true: expected a whole number"),
        ({"steps": None}, "x.steps=null: expected a whole number"),
        ({"steps": -1}, "x: steps must not be negative"),
        ({"on": "yes"}, "x.on=yes: expected true or false"),
        ({"mode": "fst"}, "x.mode=fst: expected one of fast, slow; did you mean fast?"),
        ({"pair": [1]}, "x.pair=[1]: expected a list of 2 values, such as [a,b]"),
        ({"sides": ["a"]}, "x.sides[0]=a: expected a whole number"),
        ({"layers": 3}, "x.layers=3: expected text or a list, such as [a,b]"),
        ({"inner": {"rnk": 1}}, "unknown setting x.inner.rnk; did you mean x.inner.rank?"),
        ({"inner": {"rank": "a"}}, "x.inner.rank=a: expected a whole number"),
        ({"inner": 3}, "x.inner=3: expected a group of settings (rank) or null"),
        ({"table": {"a": "b"}}, "x.table.a=b: expected a number"),
    ],
)
def test_what_does_not_fit_is_one_line(values, line):
    with pytest.raises(ConfigError) as caught:
        bind(Sample, {"root": "/a", **values} if values else {}, "x")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_value_where_settings_belong():
    with pytest.raises(ConfigError, match=r"x=3: expected settings such as x\.rank="):
        bind(Inner, 3, "x")


def test_no_infinity_as_a_whole_number():
    with pytest.raises(ConfigError, match="expected a whole number"):
        bind(Inner, {"rank": float("inf")}, "x")
