"""Scoring of an exported folder: what a user of the checkpoint would get, never the model in memory."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from spatialprior.core.backbone import Backbone
from spatialprior.eval.answering import Generate, Generation, answer
from spatialprior.eval.batches import Batch, batches, windows
from spatialprior.eval.benchmark import Benchmark, Item
from spatialprior.eval.failures import PATIENCE, EvaluationError, Patience
from spatialprior.eval.media_cache import MediaCache, loaded_ahead
from spatialprior.eval.replies import REPLIES, Reply, ReplyFolder, Row
from spatialprior.eval.result import EvalResult, TaskScore, result_of
from spatialprior.eval.rows import reply_of, row_of, without_views
from spatialprior.eval.workers import Workers
from spatialprior.export import MANIFEST, verify_manifest
from spatialprior.export.handover import settings_at
from spatialprior.export.kept import attach_kept, kept_of, plain_settings

__all__ = [
    "REPLIES",
    "EvalResult",
    "TaskScore",
    "Workers",
    "evaluate",
    "load_exported",
    "reply_folder",
]

CACHE_BYTES = 2 * 1024**3
"""Of decoded views that are kept."""


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


def reply_folder(arm: Path, benchmark: Benchmark) -> Path:
    """Where replies to a benchmark go below an arm's folder, so that no other protocol's are overwritten."""
    protocol = benchmark.protocol
    return arm / f"{benchmark.name}-{protocol['name']}" if protocol else arm


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
    workers: Workers = Workers(),  # noqa: B008 (frozen)
    cache_bytes: int = CACHE_BYTES,
) -> EvalResult:
    """Answer every item of ``benchmark`` with the model in ``folder``, and score the replies per task.

    Replies are streamed to ``out``; a scoring that was cut short goes on from there, and ends with the same
    ``replies.jsonl`` as one that was not. An item that fails is kept with its error and counts as wrong.

    Args:
        folder: What ``export_model`` wrote.
        benchmark: Its items must be the same in every process and every attempt.
        backbone, settings, device, changes: As in :func:`load_exported`.
        out: Where replies go.
        label: Of the progress bar.
        workers: This process among those that share the work. The first one's result is the whole; the others'
            is empty.
        cache_bytes: Of decoded views that are kept for later questions.

    Raises:
        ExportError: The folder is no export, or not what its manifest says.
        EvaluationError: Nothing can be answered.
    """
    model = load_exported(folder, backbone, settings, device, changes)
    identity = _identity(folder, benchmark, changes)
    start = time.perf_counter()
    replies = ReplyFolder(out, identity, workers)
    workers.begin(replies.prepare)
    items: list[Item] = []
    total = benchmark.num_items
    with (
        replies,
        tqdm(
            total=total,
            initial=min(len(replies.rows), total or 0),  # these say nothing of the time left
            desc=f"{label} {benchmark.name}",
            unit="question",
            leave=False,
            disable=workers.rank > 0,
        ) as bar,
    ):
        generate = Generation(model, benchmark.max_new_tokens)
        share = _Share(benchmark, generate, replies, MediaCache(cache_bytes))
        for window in _checked(windows(benchmark.items())):
            light = [without_views(item) for item in window]
            share.answer(light, window, bar)
            items += light
    if workers.rank:
        return EvalResult({}, [], time.perf_counter() - start, identity)
    # Graded again rather than trusted: scoring may have been mended since the reply was written.
    gathered = replies.gather()
    rows = _graded(benchmark, items, gathered)
    if len(rows) >= PATIENCE and all("error" in row for row in rows):
        raise EvaluationError(
            f"all {len(rows)} questions failed; the first, {rows[0]['id']}: {rows[0]['error']}"
        )
    asked = {row["id"] for row in rows}
    # Behind them what a scoring of more questions has answered: it took time, and may be asked for again.
    replies.write([*rows, *(row for name, row in gathered.items() if name not in asked)])
    seconds = time.perf_counter() - start
    return result_of(benchmark, rows, identity | {"batch": benchmark.config.batch}, seconds)


class _Share:
    """What this process answers of a benchmark: every ``count``-th batch."""

    def __init__(
        self, benchmark: Benchmark, generate: Generate, replies: ReplyFolder, cache: MediaCache
    ) -> None:
        self.benchmark, self.generate = benchmark, generate
        self.replies, self.cache = replies, cache
        self._batches = 0
        self._patience = Patience(any("error" not in row for row in replies.rows.values()))

    def answer(self, items: Sequence[Item], window: Sequence[Item], bar: tqdm[Any]) -> None:
        """Answer a window's share; ``items`` are those of ``window`` without their views."""
        config, workers = self.benchmark.config, self.replies.workers
        light = {item.item_id: item for item in items}
        known = _known(items, self.replies.rows)
        every = batches(window, config.batch, config.engine)
        turns = range(self._batches, self._batches + len(every))
        self._batches += len(every)
        asked = [
            turn % workers.count == workers.rank and _unanswered(batch, known) > 0
            for turn, batch in zip(turns, every, strict=True)
        ]
        ahead = loaded_ahead([b for b, mine in zip(every, asked, strict=True) if mine], self.cache)
        for batch, mine in zip(every, asked, strict=True):
            if not mine:  # another process is about as far with its own
                bar.update(_unanswered(batch, known))
                continue
            _, views = next(ahead)
            for item, reply in answer(self.generate, batch, views, known):
                self.replies.add(row_of(self.benchmark, light[item.item_id], reply))
                bar.update(item.item_id not in known)
                self._patience.see(item.item_id, item.clip.clip_id, reply.error)


def _known(items: Sequence[Item], rows: Mapping[str, Row]) -> dict[str, Reply]:
    """Replies of an earlier attempt to these very questions."""
    return {
        item.item_id: reply_of(row)
        for item in items
        if (row := rows.get(item.item_id)) is not None
        and (row["question"], row["clip_id"]) == (item.question.text, item.clip.clip_id)
    }


def _unanswered(batch: Batch, known: Mapping[str, Reply]) -> int:
    return sum(item.item_id not in known for item in batch.items)


def _checked(windows_: Iterator[list[Item]]) -> Iterator[list[Item]]:
    """The windows, where no two items share an id: one would take the other's reply.

    Raises:
        EvaluationError: Two do.
    """
    seen: set[str] = set()
    for window in windows_:
        for item in window:
            if item.item_id in seen:
                raise EvaluationError(f"two items of the benchmark have the id {item.item_id!r}")
            seen.add(item.item_id)
        yield window


def _graded(benchmark: Benchmark, items: Sequence[Item], rows: Mapping[str, Row]) -> list[Row]:
    known = _known(items, rows)
    missing = [item.item_id for item in items if item.item_id not in known]
    if missing:
        raise EvaluationError(
            f"{len(missing)} of {len(items)} questions have no reply, such as {missing[0]}: the processes do "
            "not see the same benchmark; score again"
        )
    return [row_of(benchmark, item, known[item.item_id]) for item in items]


def _identity(
    folder: Path, benchmark: Benchmark, changes: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What must agree for replies to be reused, as plain values."""
    identity: dict[str, Any] = {
        "export": hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "engine": benchmark.config.engine,
        "max_new_tokens": benchmark.max_new_tokens,
    }
    if benchmark.protocol:
        identity["protocol"] = json.loads(json.dumps(benchmark.asked))
    if changes:
        identity["changes"] = {name: plain_settings(new) for name, new in changes.items()}
    return identity
