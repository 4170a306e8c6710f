"""The contract of a benchmark: questions about views, how a reply is read, and what words alone can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.eval.answers import is_correct, parse_reply
from spatialprior.eval.blind_lookup import BlindLookup

Engine = Literal["packed", "generate"]


@dataclass(frozen=True)
class Item:
    """One question to answer.

    Attributes:
        item_id: Unique within the benchmark and stable between runs.
        clip: The views (one object shared by all items about it; its own ``questions`` are not used).
        question: What is asked.
    """

    item_id: str
    clip: MultiViewClip
    question: Question


@dataclass
class BenchmarkConfig:
    """What a recipe may set for any benchmark.

    Attributes:
        batch: Questions answered together.
        max_new_tokens: Replies stop here at the latest.
        engine: ``packed`` shares one pass over the images among all questions of a clip; ``generate`` is plain
            Hugging Face generation, one sequence a question. Both are greedy and give the same replies.
    """

    batch: int = 16
    max_new_tokens: int = 4
    engine: Engine = "packed"

    def __post_init__(self) -> None:
        for name in ("batch", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"eval.{name}={getattr(self, name)}: must be at least 1")


class Benchmark(ABC):
    """Base class of every benchmark, ours or a third party's.

    Attributes:
        Config: Dataclass of what recipes may set, derived from :class:`BenchmarkConfig`.
        name, version: Identify the questions; the version changes whenever an item or the scoring does.
        direction: Whether a higher or a lower score is better.
        multi_view: Tasks that need more than one view, marked in the report.
    """

    Config: ClassVar[type[BenchmarkConfig]]
    name: ClassVar[str]
    version: ClassVar[str]
    direction: ClassVar[Literal["higher", "lower"]] = "higher"
    multi_view: ClassVar[frozenset[str]] = frozenset()

    config: Any

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """Names under which items are scored."""

    @property
    def num_items(self) -> int | None:
        """How many items there are, at most, for the progress bar; ``None`` where that is unknown."""
        return None

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All items, the same in every process, items about one clip after each other."""

    def blind(self) -> BlindLookup | None:
        """A lookup fitted on training questions' texts, or ``None`` where there is no training split."""
        return None

    def parse(self, reply: str, question: Question) -> str | None:
        """The answer meant by a reply; ``None`` is a parse failure."""
        return parse_reply(reply, question.options)

    def score(self, reply: str, question: Question) -> float:
        """1 for the expected answer, 0 for anything else, unless a benchmark grades otherwise."""
        return float(is_correct(self.parse(reply, question), question))
