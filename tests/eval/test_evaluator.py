"""Scoring of exported folders: both engines, resumption, statistics, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.eval import evaluator
from spatialprior.eval.answering import Generate, Prompt
from spatialprior.eval.benchmark import Benchmark, BenchmarkConfig, Item
from spatialprior.eval.blind_lookup import BlindLookup
from spatialprior.eval.evaluator import EvalResult, evaluate
from spatialprior.eval.failures import EvaluationError
from spatialprior.eval.rooms_questions import RoomsQuestions
from spatialprior.export import ExportError
from spatialprior.registry import BENCHMARKS


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    cache = str(tmp_path_factory.mktemp("cache"))
    return Rooms(
        Rooms.Config(
            image_size=64,
            frames_per_room=5,
            train_rooms=3,
            test_rooms=3,
            render_workers=1,
            cache_dir=cache,
        )
    )


def run(folder: Path, benchmark: Benchmark, out: Path) -> EvalResult:
    settings = Qwen2_5VL.Config()
    return evaluate(folder, benchmark, backbone=Qwen2_5VL, settings=settings, out=out)


def test_rooms_with_both_engines(exported: Path, rooms: Rooms, tmp_path: Path) -> None:
    assert BENCHMARKS.get("rooms_questions") is RoomsQuestions
    results = {}
    for engine in ("packed", "generate"):
        config = RoomsQuestions.Config(
            clips=3, questions_per_clip=7, batch=5, engine=engine, lookup_clips=6, max_new_tokens=3
        )
        results[engine] = run(exported, RoomsQuestions(config, rooms), tmp_path / engine)
    packed, plain = results["packed"], results["generate"]
    assert [r["reply"] for r in packed.replies] == [r["reply"] for r in plain.replies]
    assert packed.to_dict() == plain.to_dict()
    assert len(packed.replies) == 21
    assert len({r["reply"] for r in packed.replies}) > 3
    rows = packed.to_dict()
    assert sum(row["n"] for row in rows.values()) == 21
    wanted = {"score", "chance", "blind", "n", "ci95", "parse_failures", "multi_view", "vs_blind"}
    assert all(wanted <= row.keys() for row in rows.values())
    assert rows["color_at"]["chance"] == 1 / 8 and not rows["color_at"]["multi_view"]
    # An untrained model does not answer with options.
    assert sum(row["parse_failures"] for row in rows.values()) > 15
    assert {r["source_id"] for r in packed.replies} == {
        r["clip_id"].split("#")[0] for r in packed.replies
    }
    json.dumps(rows)


class Fixed(Benchmark):
    """Questions whose texts tell nothing; answers alternate."""

    @dataclass
    class Config(BenchmarkConfig):
        pass

    name = "fixed"
    version = "1"
    tasks = ("side",)

    def __init__(self, **settings: Any) -> None:
        self.config = self.Config(**settings)
        self.num_clips = 8

    def items(self) -> Iterator[Item]:
        for index in range(self.num_clips):
            images = torch.full((1, 3, 64, 64), index, dtype=torch.uint8)
            clip = MultiViewClip(f"clip{index}", f"room{index // 2}", images, (0,))
            for k in range(3):
                answer = ("left", "right")[(index + k) % 2]
                text = f"image 1 cell a {'abc'[k]} left or right?"
                yield Item(f"{index}-{k}", clip, Question("side", text, answer, ("left", "right")))

    def blind(self) -> BlindLookup:
        known = Question("side", "image 1 cell p p left or right?", "left", ("left", "right"))
        return BlindLookup.fit([known] * 4)


class Oracle:
    """Stands in for the model; may break down after a number of batches."""

    def __init__(self, breaks_after: int = 1000, right: bool = True) -> None:
        self.asked: list[str] = []
        self.left, self.right = breaks_after, right

    def __call__(self, model: Any, max_new_tokens: int) -> Generate:
        def generate(prompts: Sequence[Prompt], packed: bool) -> list[str]:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            items = [prompt.item for prompt in prompts]
            self.asked += [item.item_id for item in items]
            return [f" {i.question.answer.upper()}." if self.right else "up" for i in items]

        return generate


def test_scores_against_the_lookup(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "Generation", Oracle())
    good = run(exported, Fixed(), tmp_path / "good").tasks["side"]
    assert good.score.mean == 1.0 and good.score.n == 24 and good.score.num_clusters == 4
    assert good.chance == 0.5 and good.blind == 0.5 and good.parse_failures == 0
    assert good.vs_blind.mean == 0.5 and good.beats_blind is True
    monkeypatch.setattr(evaluator, "Generation", Oracle(right=False))
    bad = run(exported, Fixed(), tmp_path / "bad").tasks["side"]
    assert bad.score.mean == 0.0 and bad.parse_failures == 24 and bad.beats_blind is False


def test_a_killed_scoring_goes_on_where_it_stopped(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "Generation", Oracle())
    whole = run(exported, Fixed(batch=6), tmp_path / "whole")
    first = Oracle(breaks_after=2)
    monkeypatch.setattr(evaluator, "Generation", first)
    with pytest.raises(KeyboardInterrupt):
        run(exported, Fixed(batch=6), tmp_path)
    file = tmp_path / "replies.jsonl"
    assert len(file.read_text().splitlines()) == 1 + 12
    torn = file.read_text()[:-20]  # the twelfth reply was cut short
    file.write_text(torn)
    second = Oracle()
    monkeypatch.setattr(evaluator, "Generation", second)
    result = run(exported, Fixed(batch=6), tmp_path)
    # The second batch lacks a reply: it is asked again whole, so that its items have the same neighbours.
    assert sorted(first.asked[:6] + second.asked) == sorted(r["id"] for r in whole.replies)
    assert result.replies == whole.replies and result.tasks == whole.tasks
    assert file.read_bytes() == (tmp_path / "whole" / "replies.jsonl").read_bytes()
    third = Oracle(breaks_after=0)
    monkeypatch.setattr(evaluator, "Generation", third)
    assert run(exported, Fixed(batch=6), tmp_path).tasks == whole.tasks


def test_replies_of_other_settings_or_texts_are_not_reused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "Generation", Oracle())
    run(exported, Fixed(), tmp_path)
    again = Oracle()
    monkeypatch.setattr(evaluator, "Generation", again)
    run(exported, Fixed(max_new_tokens=2, batch=3), tmp_path)
    assert len(again.asked) == 24
    file = tmp_path / "replies.jsonl"
    file.write_text(file.read_text().replace("image 1 cell a b", "image 1 cell b b", 1))
    again.asked.clear()
    run(exported, Fixed(max_new_tokens=2, batch=3), tmp_path)
    assert "0-1" in again.asked and len(again.asked) == 3  # with its batch


def test_a_broken_line_in_the_middle_is_an_error(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "Generation", Oracle())
    run(exported, Fixed(), tmp_path)
    lines = (tmp_path / "replies.jsonl").read_text().splitlines()
    lines[3] = lines[3][:10]
    (tmp_path / "replies.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(EvaluationError, match="line 4, is no reply"):
        run(exported, Fixed(), tmp_path)


def test_only_exports_are_scored(nano_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not an export"):
        run(nano_folder, Fixed(), tmp_path)


def test_settings_are_checked(rooms: Rooms) -> None:
    with pytest.raises(ValueError, match=r"eval\.batch=0"):
        RoomsQuestions.Config(batch=0)

    class Mute:
        has_geometry, has_questions = True, False

    with pytest.raises(ValueError, match="Mute has none"):
        RoomsQuestions(RoomsQuestions.Config(), Mute())
