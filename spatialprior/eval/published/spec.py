"""What the YAML beside a published benchmark says: version, data, protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from spatialprior.registry import suggest

T = TypeVar("T")


class SpecError(ValueError):
    """The YAML of a benchmark is missing, or says what nothing here understands. One line."""


@dataclass(frozen=True)
class SplitSpec:
    """One file of questions, or several.

    Attributes:
        file: Its path in the official layout; a pattern (``test*.parquet``) means several, by name.
        count: How many questions it must hold; ``None`` where no source says.
        tasks: Task -> how many; empty where no source says.
        source: Where the counts come from.
    """

    file: str
    count: int | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class DataSpec:
    """Where questions come from.

    Attributes:
        hub: Name of the data set on the Hugging Face hub.
        revision: The commit that the counts belong to; ``None`` where no source says.
        columns: What every record must have.
        scoring: Those of them that rules read; kept with each reply.
        splits: By name, the default one first.
        licence: As the data set states it.
    """

    hub: str
    columns: tuple[str, ...]
    splits: Mapping[str, SplitSpec]
    scoring: tuple[str, ...] = ()
    revision: str | None = None
    licence: str = ""


@dataclass(frozen=True)
class ProtocolSpec:
    """How one code base asks and scores.

    Attributes:
        source: The code that it follows, with its version.
        rule: How replies are read and summed up: a name in the benchmark's ``rules``.
        prompt: Which of the benchmark's prompts.
        headline: The aggregate that stands for the whole.
        max_new_tokens: Where replies stop.
        frames: Frames of a video; ``None`` for pictures.
        max_side: Longest side of a view, pixels; ``None`` leaves it.
        resize: ``[width, height]`` that every view is forced to, pixels; ``None`` leaves it.
        min_pixels, max_pixels: What the official code sets on the model's own processor; printed, set with
            ``backbone.*``.
        decoding: ``greedy`` is the only one that is run; others are printed as a deviation.
        notes: What else is peculiar to it.
    """

    source: str
    rule: str = "official"
    prompt: str = "official"
    headline: str = "micro"
    max_new_tokens: int = 16
    frames: int | None = None
    max_side: int | None = None
    resize: tuple[int, int] | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    decoding: str = "greedy"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """One published benchmark.

    Attributes:
        name: As recipes write it.
        title: As its authors write it.
        version: Of our questions and scoring; changes whenever either does.
        paper: Where it is described.
        direction: Whether a higher or a lower score is better.
        data: Where questions come from.
        protocols: By name; ``official`` is always one.
        multi_view: Tasks that need more than one view.
    """

    name: str
    title: str
    version: str
    paper: str
    data: DataSpec
    protocols: Mapping[str, ProtocolSpec]
    direction: Literal["higher", "lower"] = "higher"
    multi_view: tuple[str, ...] = ()

    def protocol(self, name: str) -> ProtocolSpec:
        """The protocol called ``name``.

        Raises:
            SpecError: There is none; the message says which there are.
        """
        if name not in self.protocols:
            raise SpecError(
                f"{self.name} has no protocol {name!r}; {suggest(name, self.protocols)}"
            )
        return self.protocols[name]

    def split(self, name: str | None) -> tuple[str, SplitSpec]:
        """The split called ``name``, or the first one, with its name.

        Raises:
            SpecError: There is none of that name; the message says which there are.
        """
        chosen = next(iter(self.data.splits)) if name is None else name
        if chosen not in self.data.splits:
            raise SpecError(
                f"{self.name} has no split {chosen!r}; {suggest(chosen, self.data.splits)}"
            )
        return chosen, self.data.splits[chosen]


def read_spec(path: Path) -> Spec:
    """Read the YAML beside a benchmark.

    Raises:
        SpecError: It is missing, is not YAML, or has a field too many or too few.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise SpecError(
            f"{path} is missing: the benchmark in {path.stem}.py needs its YAML there"
        ) from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    data = _part(values, "data", path)
    splits = _part(data, "splits", path)
    protocols = _part(values, "protocols", path)
    if "official" not in protocols:
        raise SpecError(f"{path}: protocols lacks official; it has {', '.join(protocols)}")
    return _built(
        Spec,
        {
            **values,
            "data": _built(
                DataSpec,
                {
                    **data,
                    "splits": {
                        name: _built(SplitSpec, part, f"{path}: data.splits.{name}")
                        for name, part in splits.items()
                    },
                },
                f"{path}: data",
            ),
            "protocols": {
                name: _built(ProtocolSpec, part, f"{path}: protocols.{name}")
                for name, part in protocols.items()
            },
        },
        str(path),
    )


def _part(values: Any, key: str, path: Path) -> dict[str, Any]:
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, dict) or not found:
        raise SpecError(f"{path} needs a section {key!r}")
    return found


def _built(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from plain values; lists become tuples, so that nothing can change them."""
    if not isinstance(values, dict):
        raise SpecError(f"{where} must be a mapping of settings")
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    for key in values.keys() - known:
        raise SpecError(f"{where}.{key} is unknown; {suggest(str(key), known)}")
    frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return cls(**frozen)
    except TypeError as error:
        raise SpecError(f"{where}: {error}") from None
