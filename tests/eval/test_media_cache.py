"""Clips are read when their batch comes up, kept up to a bound, and read one batch ahead."""

from __future__ import annotations

import threading

from engine_material import Album

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.batches import Batch, batches
from spatialprior.eval.failures import Failure
from spatialprior.eval.media_cache import MediaCache, loaded_ahead

CLIP = 2 * 3 * 64 * 64  # bytes of a clip of two views


def looks(album: Album) -> list[Batch]:
    """A batch for every clip."""
    items = [item for item in album.items() if item.question.task == "look"]
    return batches(items, 3, "packed")


def test_a_clip_is_read_once_while_it_fits() -> None:
    album = Album(clips=3, talks=0)
    cache = MediaCache(3 * CLIP)
    for _ in range(2):
        for batch in looks(album):
            cache.load(batch.items)
    assert sorted(album.read) == ["clip0x2", "clip1x2", "clip2x2"] and cache.num_bytes == 3 * CLIP


def test_the_bound_holds_and_the_clip_used_last_stays() -> None:
    album = Album(clips=4, talks=0)
    by_clip = {batch.items[0].clip.clip_id: batch.items for batch in looks(album)}
    cache = MediaCache(2 * CLIP + 1)
    for name in ("clip0x2", "clip1x2", "clip0x2", "clip2x2", "clip0x2", "clip1x2"):
        views = cache.load(by_clip[name])
        assert isinstance(views[name], MultiViewClip) and cache.num_bytes <= cache.max_bytes
    assert album.read == ["clip0x2", "clip1x2", "clip2x2", "clip1x2"]
    small = MediaCache(CLIP - 1)
    assert isinstance(small.load(by_clip["clip3x2"])["clip3x2"], MultiViewClip)
    assert small.num_bytes == 0


def test_a_broken_clip_is_read_once_and_says_why() -> None:
    album = Album(clips=2, talks=0, broken=(1,))
    cache = MediaCache(0)
    for batch in looks(album) * 2:
        views = cache.load(batch.items)
    found = {n: v for batch in looks(album) for n, v in cache.load(batch.items).items()}
    assert found["clip1x2"] == Failure("OSError: clip1x2.png is broken")
    assert album.read.count("clip1x2") == 1 and album.read.count("clip0x2") == 3
    assert views


def test_one_batch_is_read_ahead_and_no_more() -> None:
    album = Album(clips=5, talks=0)
    every = looks(album)
    ahead = loaded_ahead(every, MediaCache(0))
    for place, batch in enumerate(every):
        given, views = next(ahead)
        assert given is batch and set(views) == {i.clip.clip_id for i in batch.items}
        assert place + 1 <= len(album.read) <= place + 2
    assert (
        not list(ahead) and len(album.read) == 5
    )  # nothing was read twice, though nothing is kept
    assert not [t for t in threading.enumerate() if t.name.startswith("media")]
