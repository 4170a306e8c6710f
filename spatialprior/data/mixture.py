"""``kind: mixture``: several sources of clips, each with its share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from spatialprior.core.clip import MultiViewClip
from spatialprior.data.dataset import ClipDataset, Split, SplittableDataset
from spatialprior.data.interleave import Interleave
from spatialprior.data.shuffled import ShuffledPasses
from spatialprior.registry import DATASETS, suggest


@dataclass
class Source:
    """One source of a mixture.

    Attributes:
        kind: The dataset's name in the registry.
        settings: An instance of its ``Config``.
        weight: Its share, against the other sources' weights.
    """

    kind: str
    settings: Any
    weight: float = 1.0

    @classmethod
    def of(cls, name: str, given: object) -> Source:
        """A source from ``{kind, weight, settings...}``.

        Raises:
            ValueError: There is no such dataset or setting.
        """
        if isinstance(given, Source):
            return given
        if not isinstance(given, Mapping) or "kind" not in given:
            raise ValueError(
                f"sources.{name} has no kind; {suggest('', DATASETS.names())}, as in "
                f"sources.{name}={{kind: rooms, weight: 1}}"
            )
        kind = str(given["kind"])
        rest = {key: value for key, value in given.items() if key not in ("kind", "weight")}
        settings = DATASETS.configured(kind, rest, f"sources.{name}")
        return cls(kind, settings, float(given.get("weight", 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """In the shape in which recipes write it."""
        settings = self.settings.to_dict() if hasattr(self.settings, "to_dict") else None
        if settings is None:
            settings = dataclasses.asdict(self.settings)
        return {"kind": self.kind, "weight": self.weight, **settings}

    def build(self) -> SplittableDataset:
        """The dataset, from its settings."""
        dataset: SplittableDataset = DATASETS.get(self.kind)(self.settings)
        return dataset


class Mixture:
    """Clips of several sources in fixed proportions, in an order that is a function of (seed, index) alone.

    So a resumed run, and any number of loader or training processes, see the same clips.
    """

    has_geometry: ClassVar[bool] = False
    has_questions: ClassVar[bool] = True
    free_form: ClassVar[bool] = True

    nested: ClassVar[dict[str, type]] = {"sources": Source}
    """Settings that hold components by name, for whoever reads recipes."""

    @dataclass
    class Config:
        """What recipes may set.

        Attributes:
            sources: By name, ``{kind, weight, settings of that kind...}``. Proportions are exact: after n clips
                each source has had its share of them to within one. The name is part of the order's seed.
        """

        sources: dict[str, Source] = field(default_factory=dict)

        def __post_init__(self) -> None:
            self.sources = {name: Source.of(name, given) for name, given in self.sources.items()}
            if not self.sources:
                raise ValueError(
                    "sources is empty: a mixture needs one at least, as in "
                    "sources.chat={kind: llava_json, weight: 2, path: PATH}"
                )
            for name, source in self.sources.items():
                if not 0 < source.weight < float("inf"):
                    raise ValueError(
                        f"sources.{name}.weight={source.weight}: must be positive; leave out a source that "
                        "is not wanted"
                    )
            Interleave([source.weight for source in self.sources.values()])  # refuses odd weights

        def to_dict(self) -> dict[str, Any]:
            """In the shape in which recipes write it."""
            return {"sources": {name: source.to_dict() for name, source in self.sources.items()}}

    def __init__(self, config: Config) -> None:
        """Build every source.

        Raises:
            ValueError: A source refuses its settings, or asks no questions.
        """
        self.config = config
        self._sources: dict[str, SplittableDataset] = {}
        for name, source in config.sources.items():
            try:
                self._sources[name] = source.build()
            except ValueError as error:
                raise ValueError(f"sources.{name}: {error}") from error
            if not self._sources[name].has_questions:
                raise ValueError(
                    f"sources.{name}: {source.kind} asks no questions, and a mixture is of clips with "
                    f"questions; select data={source.kind}"
                )

    def split(self, name: Split, seed: int) -> MixtureClips:
        """The named split of every source."""
        return MixtureClips(
            {key: source.split(name, seed) for key, source in self._sources.items()},
            [source.weight for source in self.config.sources.values()],
            seed,
        )


class MixtureClips:
    """One split of a mixture.

    Args:
        sources: Clips by name.
        weights: Their shares, in the same order.
        seed: Decides in which order each source is walked.
    """

    def __init__(self, sources: Mapping[str, ClipDataset], weights: list[float], seed: int) -> None:
        self._sources = list(sources.values())
        self._draws = Interleave(weights)
        self._orders = [
            ShuffledPasses(len(clips), seed, "mixture", name) for name, clips in sources.items()
        ]

    def __len__(self) -> int:
        """Clips of one pass over all that the sources hold."""
        return sum(map(len, self._sources))

    def locate(self, index: int) -> tuple[int, int]:
        """``(number of the source, index within it)`` of clip ``index``, any non-negative integer.

        Each source is walked in shuffled passes over its own length, whatever order it hands clips out in by
        itself; pass k goes on behind pass k - 1, so that a source which draws anew in each pass still does.
        """
        which, draw = self._draws[index]
        length = len(self._sources[which])
        return which, draw // length * length + self._orders[which][draw]

    def clip(self, index: int) -> MultiViewClip:
        """Clip ``index``, any non-negative integer."""
        which, inner = self.locate(index)
        return self._sources[which].clip(inner)

    def keep_bad_in(self, folder: Path) -> None:
        """Pass on where bad files are listed to the sources that list them."""
        for source in self._sources:
            keep = getattr(source, "keep_bad_in", None)
            if keep is not None:
                keep(folder)
