"""Base class of published benchmarks: from records in the official layout to items and scores."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.data.scenes import Scenes, scene_ids, scenes_of
from spatialprior.eval.benchmark import Benchmark, BenchmarkConfig, Graded, Item, LazyViews
from spatialprior.eval.published.media import Media, read_clip
from spatialprior.eval.published.reading import read_records, told_as_record
from spatialprior.eval.published.revision import revisions_of
from spatialprior.eval.published.rule import Record, Rule, Scored
from spatialprior.eval.published.spec import ProtocolSpec, Spec, SpecError, read_spec
from spatialprior.registry import suggest

_READING = ("rule", "headline", "source", "notes", "revision", "deviations")
"""Fields of a protocol that say how replies are read, not how they are asked for."""


class PublishedBenchmark(Benchmark):
    """A benchmark that others publish. Its YAML lies beside it, under the same name.

    To write one: the class attributes, :meth:`task`, :meth:`prompt`, :meth:`media`, :meth:`answer`, and rules.

    Attributes:
        spec: What its YAML says.
        rules: Ways to score it; ``official`` is one of them.
    """

    spec: ClassVar[Spec]
    rules: ClassVar[Mapping[str, Rule]]

    @dataclass
    class Config(BenchmarkConfig):
        """What a recipe may set.

        Attributes:
            root: Folder with the data in the official layout, or a Hugging Face dataset saved to disk.
            split: Which file of it; ``None`` is the first one that the YAML names.
            protocol: Whose way to ask and to score.
            rule: Another rule for the replies than the protocol's, such as ``saner``.
            tasks: Only these; empty is all.
            limit: Only so many, the first ones; ``None`` is all.
            frames: Frames of a video, in place of the protocol's.
            check_counts: Refuse data of another number of questions, or another revision, than published.
        """

        root: str = ""
        split: str | None = None
        protocol: str = "official"
        rule: str | None = None
        tasks: tuple[str, ...] = ()
        limit: int | None = None
        frames: int | None = None
        check_counts: bool = True

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("limit", "frames"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise ValueError(f"eval.{name}={value}: must be at least 1")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not inspect.isabstract(cls) and "spec" not in vars(cls):
            cls.spec = read_spec(Path(inspect.getfile(cls)).with_suffix(".yaml"))
        if "spec" in vars(cls):
            cls.name, cls.version = cls.spec.name, cls.spec.version
            cls.direction = cls.spec.direction
            cls.multi_view = frozenset(cls.spec.multi_view)

    def __init__(self, config: PublishedBenchmark.Config, data: Any = None, seed: int = 0) -> None:
        """``data`` and ``seed`` are the run's, and not used: the questions are the published ones."""
        self.config: PublishedBenchmark.Config = config
        self._split, self._split_spec = self.spec.split(config.split)
        self._protocol = self.spec.protocol(config.protocol)
        self._rule_name = config.rule or self._protocol.rule
        self.rule_called(self._rule_name)
        self.headline = self._protocol.headline
        if not config.root:
            raise ValueError(
                f"eval={self.name} reads {self.spec.data.hub} from a local folder: set eval.root=FOLDER "
                "(nothing is downloaded)"
            )

    # --- what one benchmark knows of its records ------------------------------------------

    @abstractmethod
    def task(self, record: Record) -> str:
        """The row under which a record is scored."""

    @abstractmethod
    def prompt(self, record: Record) -> str:
        """The text of a question under ``self.protocol_spec``; a view's place in it is an ``IMAGE_MARK``."""

    @abstractmethod
    def media(self, record: Record) -> Media:
        """Where its views are."""

    @abstractmethod
    def answer(self, record: Record) -> str:
        """The expected answer, for reports."""

    def options(self, record: Record) -> tuple[str, ...]:
        """What a guess chooses among, for the chance level; empty for free text."""
        return ()

    def scene(self, record: Record) -> str:
        """The scene: unit of intervals and of the leak audit."""
        return self.media(record).key

    def dialogue(self, record: Record) -> str | None:
        """The conversation that a record is a turn of."""
        return None

    @classmethod
    def record_id(cls, record: Record, line: int) -> str:
        """How a reply names its record: its ``id``, or the line number from 0 where the schema has none."""
        return str(record["id"]) if "id" in record else str(line)

    # --- the contract of a benchmark ------------------------------------------------------

    @property
    def protocol_spec(self) -> ProtocolSpec:
        """The protocol that was chosen."""
        return self._protocol

    @property
    def rule(self) -> Rule:
        """The rule that was chosen."""
        return self.rules[self._rule_name]

    @classmethod
    def rule_called(cls, name: str) -> Rule:
        """A rule by its name.

        Raises:
            SpecError: There is none; the message says which there are.
        """
        if name not in cls.rules:
            raise SpecError(f"{cls.name} has no rule {name!r}; {suggest(name, cls.rules)}")
        return cls.rules[name]

    @property
    def max_new_tokens(self) -> int:
        return self.config.max_new_tokens or self._protocol.max_new_tokens

    @property
    def frames(self) -> int | None:
        """Frames of a video."""
        return self.config.frames or self._protocol.frames

    @property
    def protocol(self) -> dict[str, Any]:
        chosen = {k: v for k, v in asdict(self._protocol).items() if v not in (None, ())}
        return {
            "name": self.config.protocol,
            **chosen,
            "rule": self._rule_name,
            "frames": self.frames,
            "max_new_tokens": self.max_new_tokens,
            "split": self._split,
            "data": self.spec.data.hub,
            "revision": self.spec.data.revision,
            "deviations": self.deviations(),
        }

    @property
    def asked(self) -> dict[str, Any]:
        return {name: value for name, value in self.protocol.items() if name not in _READING}

    @property
    def revisions(self) -> list[str]:
        return revisions_of(Path(self.config.root), self._split_spec.file)

    def deviations(self) -> list[str]:
        """In what this scoring differs from its protocol, a sentence each."""
        protocol, config = self._protocol, self.config
        found = []
        if protocol.decoding != "greedy":
            found.append(f"decoding is greedy, not {protocol.decoding}")
        for name in ("frames", "max_new_tokens", "rule"):
            asked, theirs = getattr(config, name), getattr(protocol, name)
            if asked is not None and asked != theirs:
                found.append(f"{name} is {asked}, not {theirs}")
        if config.limit is not None:
            found.append(f"only the first {config.limit} questions")
        if config.tasks:
            found.append(f"only {', '.join(config.tasks)}")
        if not config.check_counts:
            found.append("the number of questions was not checked")
        return found

    @cached_property
    def records(self) -> list[tuple[str, Record]]:
        """Id and record of every question asked, in the file's order.

        Raises:
            RecordsError: The data is not there, or not what the YAML says.
        """
        config = self.config
        every = read_records(
            self.spec, Path(config.root), self._split, self.task, config.check_counts
        )
        named = [(self.record_id(record, line), record) for line, record in enumerate(every)]
        if config.tasks:
            known = dict.fromkeys(self.task(record) for record in every)
            for task in config.tasks:
                if task not in known:
                    raise ValueError(f"{self.name} has no task {task!r}; {suggest(task, known)}")
            named = [pair for pair in named if self.task(pair[1]) in config.tasks]
        return list(islice(named, config.limit))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.task(record) for _, record in self.records))

    @property
    def num_items(self) -> int:
        return len(self.records)

    def scenes(self) -> Scenes:
        """Scenes named by :meth:`scene`, or else by the paths of a record's media; nothing is decoded."""
        names = []
        for name, record in self.records:
            with told_as_record(self.name, name):
                names.append(self._named(record))
        return scenes_of(names)

    def _named(self, record: Record) -> str:
        scene = self.scene(record)
        if scene_ids(scene):
            return scene
        media = self.media(record)
        paths = [media.video, *(p if isinstance(p, str) else None for p in media.pictures)]
        return " ".join([scene, *filter(None, paths)])

    def items(self) -> Iterator[Item]:
        """Every question; those about one clip after each other, in the order of the clips' first questions."""
        clips: dict[str, list[tuple[str, Record, Media]]] = {}
        for name, record in self.records:
            with told_as_record(self.name, name):
                media = self.media(record)
                clip = self.dialogue(record) or media.key
            clips.setdefault(clip, []).append((name, record, media))
        for group in clips.values():
            for name, record, media in group:
                with told_as_record(self.name, name):
                    item = self._item(name, record, media)
                yield item

    def _item(self, name: str, record: Record, media: Media) -> Item:
        question = Question(
            self.task(record), self.prompt(record), self.answer(record), self.options(record)
        )
        scene = self.scene(record)
        views = LazyViews(
            clip_id=media.key,
            source_id=scene,
            num_views=media.num_views(self.frames),
            load=partial(self._views, media, scene),
        )
        kept = {key: record[key] for key in self.spec.data.scoring if key in record}
        return Item(name, views, question, kept, self.dialogue(record))

    def _views(self, media: Media, scene: str) -> MultiViewClip:
        return read_clip(media, Path(self.config.root), scene, self._protocol, self.frames)

    def grade(self, reply: str, item: Item) -> Graded:
        return self.rule.grade(item.record, reply)

    def aggregates(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        ours = super().aggregates(rows)
        theirs = self.rule.aggregates(
            [Scored(row["record"], row["reply"], row["score"]) for row in rows]
        )
        return {**ours, **theirs}
