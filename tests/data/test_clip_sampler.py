from __future__ import annotations

import pickle
from collections import Counter

import pytest
import torch

from spatialprior.data.clip_sampler import ClipSampler, ClipSampling, make_clip
from spatialprior.data.sequence import BadFrameError, Frame, SequencePart


class Numbered:
    """Frame i is filled with i; time runs in steps of 2."""

    def __init__(self, length: int = 40, bad: tuple[int, ...] = (), name: str = "walk") -> None:
        self.sequence_id, self._length, self._bad = name, length, set(bad)

    @property
    def frame_ids(self) -> tuple[int, ...]:
        return tuple(range(0, 2 * self._length, 2))

    def __len__(self) -> int:
        return self._length

    def frame(self, index: int) -> Frame:
        if index in self._bad:
            raise BadFrameError(f"{self.sequence_id}/{index:03d}.png", "truncated")
        return Frame(torch.full((3, 4, 5), index, dtype=torch.uint8), world_to_cam=torch.eye(4))


def seen(sampler: ClipSampler, count: int) -> list[tuple[int, ...]]:
    return [sampler.clip(i).frame_ids for i in range(count)]


def test_clips_follow_the_settings() -> None:
    sampler = ClipSampler([Numbered()], ClipSampling(min_frames=3, max_frames=6, window=14), seed=1)
    clips = [sampler.clip(i) for i in range(200)]
    assert Counter(clip.num_views for clip in clips).keys() == {3, 4, 5, 6}
    assert all(list(c.frame_ids) == sorted(set(c.frame_ids)) for c in clips)
    assert max(c.frame_ids[-1] - c.frame_ids[0] for c in clips) <= 2 * 14
    assert len({c.clip_id for c in clips}) == 200
    assert {c.source_id for c in clips} == {"walk"}
    for clip in clips:
        assert [int(image[0, 0, 0]) * 2 for image in clip.images] == list(clip.frame_ids)


def test_anchor_comes_first_and_bounds_the_window() -> None:
    settings = ClipSampling(min_frames=5, max_frames=5, window=10, order="anchor_first")
    sampler = ClipSampler([Numbered()], settings, seed=0)
    offsets = Counter(t - clip[0] for clip in seen(sampler, 400) for t in clip[1:])
    assert set(offsets) == {t for t in range(-10, 11, 2) if t}
    assert (
        min(offsets.values()) > 80
    )  # of 1600 draws over ten offsets: uniform, but for the sequence's ends


def test_same_clip_in_any_order_and_process() -> None:
    settings = ClipSampling(min_frames=2, max_frames=5, window=12)
    make = lambda: ClipSampler([Numbered(bad=(3, 11)), Numbered(name="b")], settings, seed=7)  # noqa: E731
    forward = seen(make(), 30)
    sampler = make()
    backward = [sampler.clip(i).frame_ids for i in reversed(range(30))][::-1]
    assert forward == backward
    assert forward == seen(pickle.loads(pickle.dumps(make())), 30)
    assert forward != seen(ClipSampler([Numbered(), Numbered(name="b")], settings, seed=8), 30)


def test_bad_frames_are_named_counted_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    settings = ClipSampling(min_frames=4, max_frames=4, window=8)
    sampler = ClipSampler([Numbered(bad=(5, 6))], settings, seed=0)
    with caplog.at_level("WARNING"):
        clips = seen(sampler, 80)
    assert all(len(clip) == 4 and not {10, 12} & set(clip) for clip in clips)
    assert sampler.bad_frames == {"walk/005.png": "truncated", "walk/006.png": "truncated"}
    assert sorted(r.getMessage().split(": ", 1)[1] for r in caplog.records) == [
        "walk/005.png: truncated",
        "walk/006.png: truncated",
    ]
    strict = ClipSampler([Numbered(bad=(5, 6))], ClipSampling(4, 4, 8, on_bad="fail"), seed=0)
    with pytest.raises(BadFrameError, match=r"walk/00[56].png: truncated"):
        seen(strict, 80)


def test_hopeless_data_stops_with_a_line() -> None:
    everything = tuple(range(40))
    sampler = ClipSampler([Numbered(bad=everything)], ClipSampling(2, 2, 8), seed=0)
    with pytest.raises(ValueError, match=r"too many bad frames.*truncated.*mend the files"):
        sampler.clip(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ClipSampling(min_frames=5, max_frames=4), "min_frames=5, max_frames=4"),
        (
            ClipSampling(min_frames=4, max_frames=4, window=2),
            r"no 4 frames within a window of \+-2 in walk",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: ClipSampling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipSampler([Numbered()], settings, seed=0)
    with pytest.raises(IndexError, match="negative"):
        ClipSampler([Numbered()], ClipSampling(2, 2), seed=0).clip(-1)


def test_make_clip_stacks_what_all_frames_have() -> None:
    clip = make_clip(Numbered(), [4, 1], "c")
    assert clip.frame_ids == (8, 2)
    assert clip.world_to_cam is not None and clip.world_to_cam.shape == (2, 4, 4)
    assert clip.depth is None and not clip.has_geometry


def test_parts_keep_time_and_name() -> None:
    part = SequencePart(Numbered(), range(10, 14), "val")
    assert part.sequence_id == "walk/val" and part.frame_ids == (20, 22, 24, 26) and len(part) == 4
    assert int(part.frame(2).image[0, 0, 0]) == 12


def test_bad_frame_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadFrameError("a/b.png", "gone")))
    assert (error.path, error.reason, str(error)) == ("a/b.png", "gone", "a/b.png: gone")
