"""Batches hold every item once, and are the same whatever has been answered and however many processes ask."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from engine_material import Album, Quick, score
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.eval.answering import Reply, answer
from spatialprior.eval.batches import batches, windows
from spatialprior.eval.benchmark import Engine
from spatialprior.eval.evaluator import Workers
from spatialprior.eval.media_cache import MediaCache

ALBUMS = st.builds(
    Album,
    clips=st.integers(0, 7),
    questions=st.integers(0, 5),
    talks=st.integers(0, 4),
    broken=st.sets(st.sampled_from([0, 2, 101, 110])).map(tuple),
)


@given(ALBUMS, st.integers(1, 9), st.integers(1, 20), st.sampled_from(["packed", "generate"]))
def test_every_item_once(album: Album, size: int, window: int, engine: Engine) -> None:
    names = Counter(item.item_id for item in album.items())
    seen: Counter[str] = Counter()
    for some in windows(album.items(), window):
        for batch in batches(some, size, engine):
            seen.update(item.item_id for item in batch.items)
            assert all(batch.rounds)
            alone = [item for item in batch.items if IMAGE_MARK in item.question.text]
            assert not (batch.packed and alone)
            if batch.packed:  # no clip's questions in two batches
                about = {item.clip.clip_id for item in batch.items}
                all_about = [i for i in some if i.clip.clip_id in about]
                assert len(all_about) == len(batch.items)
            for k, each in enumerate(batch.rounds):
                assert engine == "packed" or len(each) <= size
                talks = [item.dialogue for item in each]
                assert talks == [None] * len(each) or len(set(talks)) == len(talks)
                assert all(i.dialogue is None or i.item_id.endswith(f"-{k}") for i in each)
    assert seen == names


@given(ALBUMS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_what_is_known_changes_no_batch_and_no_reply(
    album: Album, size: int, rng: random.Random
) -> None:
    fresh, resumed = Quick(["1-1", "talk1-0"]), Quick(["1-1", "talk1-0"])
    cache = MediaCache(10**9)
    for batch in batches(list(album.items()), size, "packed"):
        views = cache.load(batch.items)
        whole = {i.item_id: r for i, r in answer(fresh.generate, batch, views, {})}
        assert whole.keys() == {item.item_id for item in batch.items}
        known: dict[str, Reply] = {name: r for name, r in whole.items() if rng.random() < 0.7}
        again = {i.item_id: r for i, r in answer(resumed.generate, batch, views, known)}
        assert {**known, **again} == whole
    asked = {tuple(call) for call in fresh.calls}
    assert all(tuple(call) in asked for call in resumed.calls)


def test_longest_first() -> None:
    batch = batches(list(Album(clips=3, talks=0).items()), 100, "generate")[0].items
    lengths = [(item.clip.num_views, len(item.question.text)) for item in batch]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 3


@pytest.mark.parametrize("count", [2, 3])
def test_processes_answer_the_same_batches(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Quick()
    whole = score(Album(broken=(2,)), tmp_path / "alone", alone, monkeypatch)
    models = [Quick() for _ in range(count)]
    for rank in reversed(range(count)):  # the first gathers, so it comes last
        album, workers = Album(broken=(2,)), Workers(rank, count)
        shared = score(album, tmp_path / "shared", models[rank], monkeypatch, workers=workers)
    assert shared.replies == whole.replies and shared.aggregates == whole.aggregates
    files = [(tmp_path / out / "replies.jsonl").read_bytes() for out in ("alone", "shared")]
    assert files[0] == files[1]
    assert all(model.calls for model in models)
    calls = [call for model in models for call in model.calls]
    assert sorted(calls) == sorted(alone.calls)
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["replies.jsonl"]
