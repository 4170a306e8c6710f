"""A benchmark that has all that the engine must cope with, and a model that answers at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.eval import evaluator
from spatialprior.eval.answering import Generate, Prompt
from spatialprior.eval.benchmark import Benchmark, BenchmarkConfig, Graded, Item, LazyViews
from spatialprior.eval.evaluator import EvalResult, evaluate
from spatialprior.export import MANIFEST

WORK = {"clips": 30, "questions": 3, "talks": 6, "broken": (3,), "seconds": 0.002}
"""Settings of the album that ``reply_worker.py`` scores."""


class Album(Benchmark):
    """Questions about clips that are read when asked about, some broken, and conversations."""

    @dataclass
    class Config(BenchmarkConfig):
        clips: int = 6
        questions: int = 3
        talks: int = 2
        broken: tuple[int, ...] = ()
        seconds: float = 0.0  # that reading a clip takes
        limit: int | None = None

    name = "album"
    version = "1"
    tasks = ("look", "place", "talk")

    def __init__(self, **settings: Any) -> None:
        self.config = self.Config(**{"batch": 4, "max_new_tokens": 2, **settings})
        self.read: list[str] = []

    @property
    def protocol(self) -> dict[str, Any]:
        return {"name": "official", "limit": self.config.limit, "sizes": (1, 2)}

    def items(self) -> Iterator[Item]:
        for c in range(self.config.clips):
            for k in range(self.config.questions):
                words = "image 1 cell a b color?" + " red" * ((c + 2 * k) % 5)
                yield self.item(f"{c}-{k}", c, Question("look", words, "red", ("red", "blue")))
            marked = f"is {IMAGE_MARK} the same?"
            yield self.item(f"{c}-m", c, Question("place", marked, "yes"), num_views=1)
        for d in range(self.config.talks):
            for turn in range(2 + d % 2):
                question = Question("talk", f"same? {turn} {'now ' * d}", "yes")
                yield self.item(f"talk{d}-{turn}", 100 + 10 * d + turn, question, talk=f"talk{d}")

    def item(
        self, name: str, c: int, question: Question, num_views: int = 2, talk: str | None = None
    ) -> Item:
        clip_id = f"clip{c}x{num_views}"

        def load() -> MultiViewClip:
            self.read.append(clip_id)
            time.sleep(self.config.seconds)
            if c in self.config.broken:
                raise OSError(f"{clip_id}.png is\nbroken")
            generator = torch.Generator().manual_seed(c)
            images = torch.randint(0, 256, (num_views, 3, 64, 64), generator=generator)
            frames = tuple(range(num_views))
            return MultiViewClip(clip_id, f"scene{c // 2}", images.to(torch.uint8), frames)

        views = LazyViews(clip_id, f"scene{c // 2}", num_views, load)
        return Item(name, views, question, {"n": c, "pair": (1, 2)}, talk)

    def grade(self, reply: str, item: Item) -> Graded:
        if item.item_id == "0-1":
            return Graded(None, None, "judge")
        return Graded(float(len(reply) % 2), reply[:1] or None)


class Quick:
    """Stands in for the model. A reply depends on the whole prompt; some questions break it."""

    def __init__(self, breaks_on: Sequence[str] = (), error: Exception | None = None) -> None:
        self.breaks_on, self.error = frozenset(breaks_on), error or RuntimeError("no")
        self.calls: list[list[str]] = []
        self.most = 1000
        self.stop_after = 10**9

    def __call__(self, model: Any, max_new_tokens: int) -> Generate:
        return self.generate

    def generate(self, prompts: Sequence[Prompt], packed: bool) -> list[str]:
        if len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        names = [prompt.item.item_id for prompt in prompts]
        self.calls.append(names)
        if len(names) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.breaks_on & set(names):
            raise self.error
        return [self._reply(prompt) for prompt in prompts]

    def _reply(self, prompt: Prompt) -> str:
        turns = " ".join(f"{q.text}{q.answer}" for q in prompt.clip.questions[:-1])
        text = f"{prompt.item.item_id}{turns}{prompt.clip.num_views}{prompt.item.question.text}"
        return hashlib.sha256(text.encode()).hexdigest()[: 2 + len(text) % 3]


def score(
    benchmark: Benchmark,
    out: Path,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> EvalResult:
    """Scoring with ``model`` in the place of an export."""
    folder = out.parent / "no export"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "load_exported", lambda *_: None)
        patch.setattr(evaluator, "Generation", model)
        return evaluate(folder, benchmark, backbone=Qwen2_5VL, settings=None, out=out, **options)
