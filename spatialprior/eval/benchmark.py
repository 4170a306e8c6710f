"""The contract of a benchmark: questions about views, how a reply is read, and what words alone can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.data.scenes import Scenes
from spatialprior.eval.ablation.names import checked
from spatialprior.eval.answers import is_correct, parse_reply
from spatialprior.eval.blind_lookup import BlindLookup

Engine = Literal["packed", "generate"]


@dataclass(frozen=True)
class LazyViews:
    """Views that are read when their questions come up, and again if they were forgotten meanwhile.

    Attributes:
        clip_id: As of the clip that ``load`` gives.
        source_id: Likewise.
        num_views: How many views it will have, as far as is known; orders batches by length.
        load: Reads them. What it raises becomes the reply's error.
    """

    clip_id: str
    source_id: str
    num_views: int
    load: Callable[[], MultiViewClip]


@dataclass(frozen=True)
class Item:
    """One question to answer.

    Attributes:
        item_id: Unique within the benchmark and stable between runs.
        clip: The views (one object shared by all items about it; its own ``questions`` are not used).
        question: What is asked.
        record: What scoring reads besides, as plain values; kept with the reply.
        dialogue: Names a conversation: its items follow each other, each with the views that are new in its
            turn, and each is asked behind the earlier ones and the model's own replies to them.
    """

    item_id: str
    clip: MultiViewClip | LazyViews
    question: Question
    record: Mapping[str, Any] = field(default_factory=dict)
    dialogue: str | None = None


@dataclass(frozen=True)
class Graded:
    """What a reply is worth.

    Attributes:
        score: In 0 to 1; ``None`` where the rule cannot tell: it would ask a paid judge, or crashes.
        parsed: What the reply was taken for; ``None`` is a parse failure.
        unscored: Why there is no score, ``judge`` or the error; ``None`` with a score.
    """

    score: float | None
    parsed: str | None
    unscored: str | None = None


@dataclass
class BenchmarkConfig:
    """What a recipe may set for any benchmark.

    Attributes:
        batch: Questions answered together.
        max_new_tokens: Replies stop here at the latest; ``None`` leaves it to the benchmark.
        engine: ``packed`` shares one pass over the images among all questions of a clip; ``generate`` is plain
            Hugging Face generation, one sequence a question. Both are greedy and give the same replies.
        price_per_hour: Of one device, in any currency; the result card then says what scoring cost.
        ablate: Ask the trained model again without something: ``blind``, ``single_frame``,
            ``shuffled_frames``, ``zero_prior``, ``other_scene_prior``.
        allow_leaks: Go on where scenes of the benchmark are in the training data; the report says so.
    """

    batch: int = 16
    max_new_tokens: int | None = None
    engine: Engine = "packed"
    price_per_hour: float | None = None
    ablate: tuple[str, ...] = ()
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        self.ablate = checked(self.ablate)
        for name in ("batch", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"eval.{name}={value}: must be at least 1")


class Benchmark(ABC):
    """Base class of every benchmark, ours or a third party's.

    Attributes:
        Config: Dataclass of what recipes may set, derived from :class:`BenchmarkConfig`.
        name, version: Identify the questions; the version changes whenever an item or the scoring does.
        direction: Whether a higher or a lower score is better.
        multi_view: Tasks that need more than one view, marked in the report.
        headline: The one of :meth:`aggregates` that stands for the whole.
        resamples: Whether :meth:`aggregates` is quick enough (well below a second for all rows) to be taken of
            some hundred resamples, for its intervals.
    """

    Config: ClassVar[type[BenchmarkConfig]]
    name: ClassVar[str]
    version: ClassVar[str]
    direction: ClassVar[Literal["higher", "lower"]] = "higher"
    multi_view: ClassVar[frozenset[str]] = frozenset()
    headline: str = "micro"
    resamples: ClassVar[bool] = True

    config: Any

    @property
    def max_new_tokens(self) -> int:
        """Where replies stop at the latest."""
        asked: int | None = self.config.max_new_tokens
        return 4 if asked is None else asked

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How questions are put and replies read, to be printed beside every score; plain values."""
        return {}

    @property
    def asked(self) -> Mapping[str, Any]:
        """What of :attr:`protocol` shapes replies; where only the rest differs, they are graded again."""
        return self.protocol

    @property
    def revisions(self) -> list[str]:
        """Revisions of the data set that the questions were read from, as far as is known."""
        return []

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

    def scenes(self) -> Scenes | None:
        """Whose views are asked about, for the leak audit; ``None`` where that cannot be told."""
        return None

    def blind(self) -> BlindLookup | None:
        """A lookup fitted on training questions' texts, or ``None`` where there is no training split."""
        return None

    def parse(self, reply: str, question: Question) -> str | None:
        """The answer meant by a reply; ``None`` is a parse failure."""
        return parse_reply(reply, question.options)

    def score(self, reply: str, question: Question) -> float:
        """1 for the expected answer, 0 for anything else, unless a benchmark grades otherwise."""
        return float(is_correct(self.parse(reply, question), question))

    def grade(self, reply: str, item: Item) -> Graded:
        """What the reply to ``item`` is worth: by default what :meth:`parse` and :meth:`score` say."""
        return Graded(self.score(reply, item.question), self.parse(reply, item.question))

    def aggregates(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Figures of the whole benchmark, by name, from rows of replies (``task``, ``score``, ``record``, ...).

        By default ``micro``, the mean over items, and ``macro``, the mean over tasks.
        """
        return micro_and_macro(rows)


def micro_and_macro(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean over items, and the mean over the means of tasks; a missing score counts as 0."""
    by_task: dict[str, list[float]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row["score"] or 0.0)
    means = [sum(scores) / len(scores) for scores in by_task.values()]
    return {
        "micro": sum(map(sum, by_task.values())) / len(rows) if rows else 0.0,
        "macro": sum(means) / len(means) if means else 0.0,
    }
