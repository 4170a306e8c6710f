"""Held-out rooms: accuracy per question type, with what the words alone would have scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from spatialprior.core.clip import Question
from spatialprior.data.dataset import ClipDataset, SplittableDataset
from spatialprior.data.rooms.question_types import MULTI_VIEW
from spatialprior.data.rooms.questions import resolve_tasks
from spatialprior.data.scenes import Scenes
from spatialprior.eval.benchmark import Benchmark, BenchmarkConfig, Item
from spatialprior.eval.blind_lookup import BlindLookup


class RoomsQuestions(Benchmark):
    """Questions about the test split of the embedded rooms (or of any dataset that asks them).

    Args:
        config: Settings.
        data: The dataset that the run trains on: its test split is scored, its train split fits the lookup.
        seed: Decides which views and questions are drawn; the same for every arm of a run.
    """

    name: ClassVar[str] = "rooms_questions"
    version: ClassVar[str] = "1"
    multi_view: ClassVar[frozenset[str]] = frozenset(MULTI_VIEW)

    @dataclass
    class Config(BenchmarkConfig):
        """What a recipe may set.

        Attributes:
            split: Whose clips are asked about: ``test``, or ``val`` to choose settings by.
            clips: Clips of that split.
            questions_per_clip: Questions of each.
            lookup_clips: Clips of the train split whose questions' texts fit the blind lookup.
        """

        split: Literal["val", "test"] = "test"
        clips: int = 150
        questions_per_clip: int = 12
        lookup_clips: int = 2000

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("clips", "questions_per_clip", "lookup_clips"):
                if getattr(self, name) < 1:
                    raise ValueError(f"eval.{name}={getattr(self, name)}: must be at least 1")

    def __init__(
        self, config: RoomsQuestions.Config, data: SplittableDataset, seed: int = 0
    ) -> None:
        if not data.has_questions or getattr(data, "free_form", False):
            raise ValueError(
                f"eval=rooms_questions asks questions with short answers, and {type(data).__name__} has none; "
                "use data=rooms or instruction=rooms, or eval=null to skip scoring"
            )
        self.config: RoomsQuestions.Config = config
        self._seed = seed
        self._data = _with_questions(data, config.questions_per_clip)

    @property
    def tasks(self) -> tuple[str, ...]:
        settings = getattr(self._data, "config", None)
        return tuple(dict.fromkeys(resolve_tasks(getattr(settings, "tasks", ("all",)))))

    @property
    def num_items(self) -> int:
        return self.config.clips * self.config.questions_per_clip

    @cached_property
    def _test(self) -> ClipDataset:
        return self._data.split(self.config.split, self._seed)

    def items(self) -> Iterator[Item]:
        for index in range(self.config.clips):
            clip = self._test.clip(index)
            views = clip.with_questions(())
            for k, question in enumerate(clip.questions):
                yield Item(f"{clip.clip_id}/{k}", views, question)

    def scenes(self) -> Scenes | None:
        own: Any = getattr(self._data, "scenes", None)
        found: Scenes | None = own(self.config.split) if own else None
        return found

    def blind(self) -> BlindLookup:
        return self._lookup

    @cached_property
    def _lookup(self) -> BlindLookup:
        return BlindLookup.fit(self._training_questions())

    def _training_questions(self) -> list[Question]:
        train = self._data.split("train", self._seed)
        ask: Any = getattr(train, "questions", None) or (lambda index: train.clip(index).questions)
        return [q for index in range(self.config.lookup_clips) for q in ask(index)]


def _with_questions(data: SplittableDataset, count: int) -> SplittableDataset:
    """The same dataset with ``count`` questions a clip, where its settings have such a field."""
    settings: Any = getattr(data, "config", None)
    if not hasattr(settings, "questions_per_clip") or settings.questions_per_clip == count:
        return data
    cls: Any = type(data)
    dense: SplittableDataset = cls(dataclasses.replace(settings, questions_per_clip=count))
    return dense
