"""Numbers that papers publish: theirs, from YAML files, never measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

import yaml

from spatialprior.registry import suggest

THEIRS = "theirs, not measured here"
_FOLDER = resources.files("spatialprior.eval.cards") / "published"


class PublishedError(ValueError):
    """A file of published numbers is missing, or not what it should be. One line."""


@dataclass(frozen=True)
class Reference:
    """Rows of one published table, on one benchmark.

    Attributes:
        paper: Short name of the method.
        reference: Where it is published.
        benchmark: As recipes write it.
        source: Where the numbers were read.
        mark: How sure they are (``P``: the paper states them; ``N``, ``T``: second-hand); see ``certainty``.
        certainty: What ``mark`` means.
        columns: Our name of a task or an aggregate -> factor from their number to ours (a task is shown in
            percent, an aggregate in the scale of its rule).
        rows: Their name of a row -> a number, or ``None``, for each column.
        caveats: What to know before comparing.
        split: Of ours that they report on; ``None`` where there is one only.
        comparable: Whether they asked the questions that we ask.
    """

    paper: str
    reference: str
    benchmark: str
    source: str
    mark: str
    certainty: str
    columns: Mapping[str, float]
    rows: Mapping[str, Sequence[float | None]]
    caveats: tuple[str, ...] = ()
    split: str | None = None
    comparable: bool = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands below every table that shows a row of it."""
        origin = f"{self.paper} ({self.reference}): {THEIRS}; {self.certainty} [{self.mark}]; {self.source}"
        return (origin, *(f"{self.paper}: {caveat}" for caveat in self.caveats))


def papers() -> list[str]:
    """Names of the papers whose numbers are here."""
    return sorted(
        path.name.removesuffix(".yaml") for path in _FOLDER.iterdir() if path.name.endswith(".yaml")
    )


def references(names: Iterable[str]) -> list[Reference]:
    """All tables of the papers named.

    Raises:
        PublishedError: There are no numbers of that name, or its file is broken.
    """
    known = papers()
    for name in names:
        if name not in known:
            raise PublishedError(
                f"no published numbers of {name!r} are here; {suggest(name, known)}"
            )
    return [
        reference
        for name in names
        for reference in parse((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), name)
    ]


def parse(text: str, name: str) -> list[Reference]:
    """The tables of one file.

    Raises:
        PublishedError: It lacks a field, has an unknown one, or a row has not one value a column.
    """
    try:
        content = yaml.safe_load(text)
        head = {key: content[key] for key in ("paper", "reference")}
        return [
            _table({**head, **table}, content["marks"], f"{name}, table {number}")
            for number, table in enumerate(content["tables"], start=1)
        ]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise PublishedError(
            f"published numbers of {name}: {' '.join(str(error).split())}"
        ) from None


def _table(values: dict[str, Any], marks: Mapping[str, str], where: str) -> Reference:
    known = {item.name for item in fields(Reference)}
    for key in values:
        if key not in known:
            raise PublishedError(f"{where}: unknown field {key!r}; {suggest(str(key), known)}")
    if values.get("mark") not in marks:
        raise PublishedError(f"{where}: mark {values.get('mark')!r} is not explained under marks")
    found = Reference(
        **{**values, "caveats": tuple(values.get("caveats", ()))}, certainty=marks[values["mark"]]
    )
    for row, numbers in found.rows.items():
        if len(numbers) != len(found.columns):
            raise PublishedError(
                f"{where}, row {row!r}: {len(numbers)} values for {len(found.columns)} columns"
            )
    return found
