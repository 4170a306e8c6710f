"""Scoring of an exported folder: what a user of the checkpoint would get, never the model in memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from spatialprior.core.backbone import Backbone
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.core.intervals import Interval, clustered_interval, paired_interval
from spatialprior.eval.answers import chance
from spatialprior.eval.benchmark import Benchmark, Item, LazyViews
from spatialprior.eval.generate_packed import generate_packed
from spatialprior.eval.replies import ReplyFile
from spatialprior.export import MANIFEST, verify_manifest
from spatialprior.export.handover import settings_at
from spatialprior.export.kept import attach_kept, kept_of, plain_settings

REPLIES = "replies.jsonl"
_WINDOW = 512  # questions that are looked at together and sorted by length; bounds memory


@dataclass(frozen=True)
class TaskScore:
    """One row of the result.

    Attributes:
        score: Mean score with its 95 % interval, clustered by room or sequence.
        chance: Mean probability that a uniform guess among the options is right.
        blind: Mean score of the blind lookup on the same questions; ``None`` without one.
        vs_blind: Paired difference to the lookup, with its interval.
        parse_failures: Replies that were none of the options.
        multi_view: Whether the task needs more than one view.
    """

    score: Interval
    chance: float
    blind: float | None
    vs_blind: Interval | None
    parse_failures: int
    multi_view: bool
    lower_is_better: bool = False

    @property
    def beats_blind(self) -> bool | None:
        """Whether the interval of the difference lies wholly on the better side of zero."""
        if self.vs_blind is None:
            return None
        gap = self.vs_blind
        return gap.high < 0 if self.lower_is_better else gap.low > 0

    def to_dict(self) -> dict[str, Any]:
        """The task's entry in ``report.json``."""
        gap = self.vs_blind
        return {
            "score": self.score.mean,
            "chance": self.chance,
            "blind": self.blind,
            "n": self.score.n,
            "ci95": self.score.bounds,
            "clusters": self.score.num_clusters,
            "parse_failures": self.parse_failures,
            "multi_view": self.multi_view,
            "vs_blind": None if gap is None else {"mean": gap.mean, "ci95": gap.bounds},
            "beats_blind": self.beats_blind,
        }


@dataclass(frozen=True)
class EvalResult:
    """Scores of one exported model on one benchmark.

    Attributes:
        tasks: Task -> its row.
        replies: Every item with its reply, in the benchmark's order, as the report shows them.
        seconds: Time spent answering (not what an earlier, interrupted scoring spent).
        settings: Benchmark, version, engine and so on, to be printed with the numbers.
    """

    tasks: dict[str, TaskScore]
    replies: list[dict[str, Any]]
    seconds: float
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The ``eval`` section of ``report.json``: task -> row."""
        return {task: row.to_dict() for task, row in self.tasks.items()}


def load_exported(
    folder: Path,
    backbone: type[Backbone],
    settings: Any,
    device: torch.device | str = "cpu",
    changes: Mapping[str, Any] | None = None,
) -> Backbone:
    """An exported folder through its own backbone class, with the priors that it keeps, ready to answer.

    Args:
        folder: What ``export_model`` wrote.
        backbone: The class that trained it.
        settings: The run's settings of that class; only where weights come from is changed.
        device: Where to put it.
        changes: Kept prior -> settings to use in place of the recorded ones.

    Raises:
        ExportError: The folder is no export, or not what its manifest says.
    """
    manifest = verify_manifest(folder)
    cls: Any = backbone
    model: Backbone = cls.load(settings_at(settings, folder, lora=None)).eval().to(device)
    if kept_of(manifest["priors"]):
        attach_kept(model, folder, manifest["priors"], changes).serve()
    return model


def evaluate(
    folder: Path,
    benchmark: Benchmark,
    *,
    backbone: type[Backbone],
    settings: Any,
    out: Path,
    device: torch.device | str = "cpu",
    label: str = "scoring",
    changes: Mapping[str, Any] | None = None,
) -> EvalResult:
    """Answer every item of ``benchmark`` with the model in ``folder``, and score the replies per task.

    Replies are streamed to ``out/replies.jsonl``; a scoring that was cut short goes on from there.
    ``changes`` as in :func:`load_exported`.

    Raises:
        ExportError: The folder is no export, or not what its manifest says.
    """
    model = load_exported(folder, backbone, settings, device, changes)
    config = benchmark.config
    identity = {
        "export": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "engine": config.engine,
        "max_new_tokens": benchmark.max_new_tokens,
    }
    if changes:
        identity["changes"] = {name: plain_settings(new) for name, new in changes.items()}
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with (
        ReplyFile(out / REPLIES, identity) as file,
        tqdm(total=benchmark.num_items, desc=label, unit="question", leave=False) as bar,
    ):
        answer = _engine(model, config.engine, benchmark.max_new_tokens)
        for window in _windows(benchmark.items(), _WINDOW):
            todo = [item for item in window if not _answered(item, file)]
            bar.update(len(window) - len(todo))
            for group in _batches(todo, config.batch, by_clip=config.engine == "packed"):
                for item, reply in zip(group, answer(group), strict=True):
                    file.add(_row(benchmark, item, reply))
                bar.update(len(group))
            # Read again rather than trusted: scoring may have been mended since the reply was written.
            rows += [_row(benchmark, it, file.replies[it.item_id]["reply"]) for it in window]
    seconds = time.perf_counter() - start
    return EvalResult(_score(benchmark, rows), rows, seconds, identity | {"batch": config.batch})


# --- answering ----------------------------------------------------------------------------


Answer = Callable[[Sequence[Item]], list[str]]


def _engine(model: Backbone, engine: str, max_new_tokens: int) -> Answer:
    encoder: Any = model.encoder()
    device = next(model.parameters()).device

    def packed(items: Sequence[Item]) -> list[str]:
        groups = list(_by_clip(items))
        clips = [_views(g[0]).with_questions(tuple(item.question for item in g)) for g in groups]
        replies = generate_packed(model, clips, max_new_tokens, encoder=encoder)
        return list(chain.from_iterable(replies))

    def plain(items: Sequence[Item]) -> list[str]:
        clips = [_views(item).with_questions((item.question,)) for item in items]
        tokens = model.generate(encoder.prompts(clips).to(device), max_new_tokens)
        replies: list[str] = encoder.decode(tokens)
        return replies

    return packed if engine == "packed" else plain


def _windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Runs of about ``size`` items that never split a clip."""
    return _filled(_by_clip(items), size)


def _by_clip(items: Iterable[Item]) -> Iterator[list[Item]]:
    return (list(group) for _, group in groupby(items, key=lambda item: item.clip.clip_id))


def _filled(groups: Iterable[list[Item]], size: int) -> Iterator[list[Item]]:
    """Whole groups put together until there are ``size`` items or more."""
    filled: list[Item] = []
    for group in groups:
        filled += group
        if len(filled) >= size:
            yield filled
            filled = []
    if filled:
        yield filled


def _batches(items: Sequence[Item], size: int, *, by_clip: bool) -> Iterator[list[Item]]:
    """Items of about equal length together, longest first, so that little is padding and memory peaks early."""
    if not by_clip:
        ordered = iter(sorted(items, key=lambda item: _length([item]), reverse=True))
        while batch := list(islice(ordered, size)):
            yield batch
        return
    yield from _filled(sorted(_by_clip(items), key=_length, reverse=True), size)


def _length(items: Sequence[Item]) -> tuple[int, int]:
    """Orders sequences by length: pixels first, then words."""
    return items[0].clip.num_views, sum(len(item.question.text) for item in items)


def _views(item: Item) -> MultiViewClip:
    return item.clip.load() if isinstance(item.clip, LazyViews) else item.clip


def _answered(item: Item, file: ReplyFile) -> bool:
    known = file.replies.get(item.item_id)
    return known is not None and known["question"] == item.question.text


# --- scoring ------------------------------------------------------------------------------


def _row(benchmark: Benchmark, item: Item, reply: str) -> dict[str, Any]:
    question = item.question
    graded = benchmark.grade(reply, item)
    return {
        "id": item.item_id,
        "clip_id": item.clip.clip_id,
        "source_id": item.clip.source_id,
        "task": question.task,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
        "reply": reply,
        "parsed": graded.parsed,
        "score": graded.score or 0.0,
        "correct": graded.score == 1.0,
        "chance": chance(question),
    }


def _question(row: dict[str, Any]) -> Question:
    return Question(row["task"], row["question"], row["answer"], tuple(row["options"]))


def _score(benchmark: Benchmark, rows: Sequence[dict[str, Any]]) -> dict[str, TaskScore]:
    lookup = benchmark.blind()
    found = dict.fromkeys(row["task"] for row in rows)
    names = [*(t for t in benchmark.tasks if t in found), *(found.keys() - set(benchmark.tasks))]
    return {
        task: _task(benchmark, [r for r in rows if r["task"] == task], lookup) for task in names
    }


def _task(benchmark: Benchmark, rows: Sequence[dict[str, Any]], lookup: Any) -> TaskScore:
    scores = [row["score"] for row in rows]
    clusters = [row["source_id"] for row in rows]
    blind = gap = None
    if lookup is not None:
        guesses = [benchmark.score(lookup.predict(_question(row)), _question(row)) for row in rows]
        blind = sum(guesses) / len(guesses)
        gap = paired_interval(scores, guesses, clusters)
    return TaskScore(
        score=clustered_interval(scores, clusters),
        chance=sum(row["chance"] for row in rows) / len(rows),
        blind=blind,
        vs_blind=gap,
        parse_failures=sum(row["parsed"] is None for row in rows),
        multi_view=rows[0]["task"] in benchmark.multi_view,
        lower_is_better=benchmark.direction == "lower",
    )
