"""Scorings without a model: replies are given, grades come from the real rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spatialprior.core.clip import Question
from spatialprior.core.intervals import clustered_interval
from spatialprior.eval.aggregates import aggregates_of
from spatialprior.eval.benchmark import Benchmark, BenchmarkConfig, Item, LazyViews
from spatialprior.eval.cards.make import Circumstances, write_card
from spatialprior.eval.published.vsi_bench import VsiBench
from spatialprior.eval.replies import Reply
from spatialprior.eval.result import EvalResult, TaskScore
from spatialprior.eval.rows import row_of, without_views
from spatialprior.export import export_model
from spatialprior.model import SpatialModel
from spatialprior.registry import BENCHMARKS
from spatialprior.testing import tiny_backbone


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards") / "export"
    export_model(SpatialModel(tiny_backbone(), {}), folder, recipe_hash="abc")
    return folder


class Sides(Benchmark):
    """A plug-in's benchmark: left or right. Making one needs data."""

    @dataclass
    class Config(BenchmarkConfig):
        clips: int = 6

    name = "sides"
    version = "1"
    multi_view = frozenset({"two"})
    tasks = ("one", "two")

    def __init__(self, config: Sides.Config, data: Any = None, seed: int = 0) -> None:
        assert data is not None
        self.config = config

    def items(self) -> Iterator[Item]:
        for index in range(self.config.clips):
            for task in self.tasks:
                answer = ("left", "right")[index % 2]
                question = Question(task, f"where is {task}?", answer, ("left", "right"))
                yield Item(f"{index}-{task}", views(index), question)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    BENCHMARKS.names()  # those of plug-ins are found once
    for kept in ("_entries", "_loaded"):
        monkeypatch.setattr(BENCHMARKS, kept, dict(getattr(BENCHMARKS, kept)))
    monkeypatch.setattr(BENCHMARKS, "_frozen", False)
    BENCHMARKS.add("sides", Sides)


def views(index: int) -> LazyViews:
    return LazyViews(f"clip{index}", f"room{index // 2}", 1, lambda: pytest.fail("no view is read"))


def vsi_items() -> Iterator[Item]:
    for index in range(4):
        record = {
            "question_type": "object_counting",
            "ground_truth": str(index + 1),
            "options": None,
        }
        question = Question("object_counting", f"how many {index}?", str(index + 1))
        yield Item(str(2 * index), views(index), question, record)
        record = {
            "question_type": "route_planning",
            "ground_truth": "A",
            "options": ["A. a", "B. b"],
        }
        question = Question("route_planning", "which way?", "A", ("A. a", "B. b"))
        yield Item(str(2 * index + 1), views(index), question, record)


def score(
    benchmark: Benchmark,
    items: Iterator[Item],
    replies: list[str],
    export: Path,
    out: Path,
    **changes: Any,
) -> None:
    """Write ``replies.jsonl`` and ``card.json`` as a run does."""
    pairs = zip(items, replies, strict=True)
    rows = [row_of(benchmark, without_views(item), Reply(reply)) for item, reply in pairs]
    out.mkdir(parents=True, exist_ok=True)
    lines = [{"identity": {}}, *rows]
    (out / "replies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks = {row["task"]: one_task([r for r in rows if r["task"] == row["task"]]) for row in rows}
    settings = {"changes": changes.pop("at_inference", {})}
    about = {
        "recipe": "gasp_qwen",
        "folder": "today-1",
        "arm": "after",
        "seed": 3,
        "base": {"kind": "qwen2_5_vl", "path": None},
        "commit": "0123456789abcdef",
        "hardware": {"device": "CPU"},
    }
    write_card(
        EvalResult(tasks, rows, 2.0, settings, aggregates_of(benchmark, rows)),
        benchmark,
        export,
        out,
        Circumstances(**{**about, **changes}),
    )


def one_task(rows: list[dict[str, Any]]) -> TaskScore:
    found = clustered_interval([r["score"] or 0.0 for r in rows], [r["source_id"] for r in rows])
    return TaskScore(found, 0.0, 0.25, None, 0, False)


VSI_REPLIES = ["1", "A", "3", "B.", "no idea", "a", "4", "(A)"]
SIDES_REPLIES = ["left", "Left.", "right", "up", "left", "right"] * 2


@pytest.fixture()
def vsi(exported: Path, tmp_path: Path) -> Callable[..., Path]:
    """Scores VSI-Bench and gives the folder of its card."""

    def make(
        name: str = "vsi",
        config: dict[str, Any] | None = None,
        export: Path = exported,
        **changes: Any,
    ) -> Path:
        asked = VsiBench(VsiBench.Config(root="somewhere", **(config or {})))
        score(asked, vsi_items(), VSI_REPLIES, export, tmp_path / name, **changes)
        return tmp_path / name

    return make


@pytest.fixture()
def sides(exported: Path, tmp_path: Path) -> Callable[..., Path]:
    """The same for the plug-in's."""

    def make(name: str = "sides", **changes: Any) -> Path:
        asked = Sides(Sides.Config(), data="here")
        score(asked, asked.items(), SIDES_REPLIES, exported, tmp_path / name, **changes)
        return tmp_path / name

    return make
