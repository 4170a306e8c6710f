"""A benchmark asked without its views: what reaches the model, and what stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.eval.ablation.benchmark import Ablated
from spatialprior.eval.ablation.names import VIEWS
from spatialprior.eval.benchmark import Benchmark, BenchmarkConfig, Item, LazyViews
from spatialprior.eval.media_cache import MediaCache
from spatialprior.testing import tiny_backbone

M = IMAGE_MARK


def views(clip_id: str, count: int) -> MultiViewClip:
    shades = torch.arange(count, dtype=torch.uint8) * 40
    images = shades.view(-1, 1, 1, 1).expand(count, 3, 64, 64)
    return MultiViewClip(clip_id, clip_id, images, tuple(range(count)))


class Shown(Benchmark):
    """Items as given."""

    @dataclass
    class Config(BenchmarkConfig):
        pass

    name, version, tasks = "shown", "3", ("side",)
    direction = "lower"

    def __init__(self, items: list[Item], frames: int | None = None) -> None:
        self.config, self._items, self._frames = self.Config(max_new_tokens=7), items, frames

    @property
    def protocol(self):
        return {"frames": self._frames}

    def items(self) -> Iterator[Item]:
        yield from self._items

    def score(self, reply, question):
        return 0.25

    def aggregates(self, rows):
        return {"own": 1.0}


def item(clip, text="left?", name="q", dialogue=None) -> Item:
    question = Question("side", text, "left", ("left", "right"))
    return Item(name, clip, question, {"a": 1}, dialogue)


def lazy(clip: MultiViewClip, loads: list[str]) -> LazyViews:
    def load() -> MultiViewClip:
        loads.append(clip.clip_id)
        return clip

    return LazyViews(clip.clip_id, clip.source_id, clip.num_views, load)


def ablated(name: str, *items: Item, frames: int | None = None) -> list[Item]:
    return list(Ablated(Shown(list(items), frames), name).items())


def greys(clip) -> list[int]:
    return [int(view.max()) // 40 for view in clip.images]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("lazily", [False, True])
def test_blind_prompts_have_no_image_token(marked, lazily):
    text = f"See {M} and {M}: left?" if marked else "left?"
    clip, loads = views("a", 2), []
    (found,) = ablated("blind", item(lazy(clip, loads) if lazily else clip, text))
    assert not loads and isinstance(found.clip, MultiViewClip)  # nothing is read from disk
    encoder = tiny_backbone().encoder()
    seen = encoder.prompts([clip.with_questions((item(clip, text).question,))])
    blind = encoder.prompts([found.clip.with_questions((found.question,))])
    assert torch.isin(seen.inputs["input_ids"], torch.tensor(encoder.visual_ids)).sum() == 2 * 64
    assert not torch.isin(blind.inputs["input_ids"], torch.tensor(encoder.visual_ids)).any()
    words = encoder.tokenizer.decode(blind.inputs["input_ids"][0])
    assert text.replace(M, "") in words and "image" not in words and "vision" not in words


@pytest.mark.parametrize("engine", ["prompts", "packed_prompts"])
def test_a_model_answers_blind_items_in_both_engines(engine):
    (found,) = ablated("blind", item(views("a", 2)))
    backbone = tiny_backbone()
    batch = getattr(backbone.encoder(), engine)([found.clip.with_questions((found.question,))])
    assert torch.isfinite(backbone(batch).hidden).all()


def test_single_frame_is_the_first_picture_or_the_middle_of_a_video():
    loads: list[str] = []
    text = f"{M}{M}{M} which? {M}"
    for frames, kept, marks in ((None, 0, f"{M} which? "), (8, 2, f"{M} which? ")):
        eager, late = ablated(
            "single_frame",
            item(views("a", 4), text),
            item(lazy(views("b", 4), loads)),
            frames=frames,
        )
        assert greys(eager.clip) == [kept] and eager.question.text == marks
        assert isinstance(late.clip, LazyViews) and late.clip.num_views == 1
        assert greys(late.clip.load()) == [kept]
    assert loads == ["b", "b"]


def test_shuffled_frames_move_and_marks_stay():
    loads: list[str] = []
    text = f"{M} or {M}?"
    clip = views("a", 5)
    eager, late = ablated("shuffled_frames", item(clip, text), item(lazy(clip, loads), text))
    assert greys(eager.clip) == greys(late.clip.load()) != [0, 1, 2, 3, 4]
    assert eager.clip.frame_ids == tuple(greys(eager.clip)) and eager.question.text == text
    (single,) = ablated("shuffled_frames", item(views("a", 1)))
    assert greys(single.clip) == [0]


def test_a_dialogue_keeps_one_view_in_all():
    turns = [
        item(views("text", 0), "Hello?", "0", "talk"),
        item(views("a", 2), f"{M}{M}one?", "1", "talk"),
        item(views("b", 3), f"{M}{M}{M}two?", "2", "talk"),
        item(views("c", 2), "three?", "3"),
    ]
    found = ablated("single_frame", *turns)
    assert [it.clip.num_views for it in found] == [0, 1, 0, 1]
    assert [it.question.text for it in found] == ["Hello?", f"{M}one?", "two?", "three?"]
    assert [it.dialogue for it in found] == ["talk", "talk", "talk", None]


@pytest.mark.parametrize("lazily", [False, True])
def test_views_shown_twice_in_a_dialogue_are_two_clips(lazily):
    clip = lazy(views("a", 2), []) if lazily else views("a", 2)
    found = ablated("single_frame", *(item(clip, name=n, dialogue="talk") for n in "12"))
    loaded = MediaCache(2**20).load(found)
    assert [loaded[it.clip.clip_id].num_views for it in found] == [1, 0]


@pytest.mark.parametrize("name", VIEWS)
def test_all_else_is_the_whole_benchmarks(name):
    clip = views("a", 3)
    items = [item(clip, name="1"), item(clip, name="2"), item(views("b", 3), name="3")]
    whole = Shown(items)
    bench = Ablated(whole, name)
    found = list(bench.items())
    assert [(i.item_id, i.record, i.question, i.clip.clip_id) for i in found] == [
        (i.item_id, i.record, i.question, i.clip.clip_id) for i in items
    ]
    assert found[0].clip is found[1].clip  # items about one clip share it
    assert bench.name == "shown" and bench.version == "3" and bench.tasks == ("side",)
    assert bench.direction == "lower" and bench.max_new_tokens == 7
    assert bench.grade("?", found[0]).score == 0.25 and bench.aggregates([]) == {"own": 1.0}
    assert bench.protocol["ablation"] == name and bench.blind() is None


def test_names_are_checked():
    with pytest.raises(ValueError, match="did you mean single_frame"):
        Ablated(Shown([]), "singleframe")
    with pytest.raises(ValueError, match=r"eval\.ablate has no 'blnd'; did you mean blind"):
        BenchmarkConfig(ablate=("blnd",))
    assert BenchmarkConfig(ablate=["blind", "zero_prior", "blind"]).ablate == (
        "blind",
        "zero_prior",
    )
