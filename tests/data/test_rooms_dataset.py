import logging
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from spatialprior.data.rooms.dataset import FIRST_SEED, Rooms
from spatialprior.data.rooms.render import render_room, write_rooms


def _config(folder, **changes):
    settings = {
        "image_size": 32,
        "train_rooms": 4,
        "val_rooms": 2,
        "test_rooms": 2,
        "cache_dir": str(folder),
        "render_workers": 0,
    }
    return Rooms.Config(**(settings | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rooms_cache")


def _same(a, b):
    assert (a.clip_id, a.source_id, a.frame_ids, a.questions) == (
        b.clip_id,
        b.source_id,
        b.frame_ids,
        b.questions,
    )
    for name in ("images", "depth", "depth_valid", "intrinsics", "world_to_cam"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def _clip_in_child(job):
    data, index = job
    clip = data.clip(index)
    return clip.clip_id, clip.frame_ids, [q.text for q in clip.questions], int(clip.images.sum())


def test_a_clip_depends_on_seed_and_index_only(folder):
    one = Rooms(_config(folder)).split("train", seed=3)
    other = Rooms(_config(folder)).split("train", seed=3)
    _ = [other.clip(i) for i in (5, 2, 900)]
    for index in (0, 7, 900):
        _same(one.clip(index), other.clip(index))
    different = Rooms(_config(folder)).split("train", seed=4)
    assert [one.clip(i).frame_ids for i in range(8)] != [
        different.clip(i).frame_ids for i in range(8)
    ]


def test_a_loader_process_makes_the_same_clips_and_carries_no_pixels(folder):
    data = Rooms(_config(folder)).split("train", seed=0)
    assert len(pickle.dumps(data)) < 5_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_clip_in_child, [(data, 3)]) == [_clip_in_child((data, 3))]


def test_one_pass_shows_every_room_once_and_the_next_in_another_order(folder):
    data = Rooms(_config(folder, train_rooms=8)).split("train", seed=0)
    laps = [[data.clip(lap * 8 + i).source_id for i in range(8)] for lap in range(2)]
    assert sorted(laps[0]) == sorted(laps[1]) == sorted(f"room{seed}" for seed in range(8))
    assert laps[0] != laps[1]
    ids = [data.clip(i).clip_id for i in range(16)]
    assert len(set(ids)) == 16


def test_splits_share_no_room(folder):
    data = Rooms(_config(folder))
    rooms = [
        {c.source_id for c in map(s.clip, range(4))} for s in (data.split(n, 0) for n in FIRST_SEED)
    ]
    assert not (rooms[0] & rooms[1] or rooms[1] & rooms[2] or rooms[0] & rooms[2])


def test_views_are_what_the_renderer_made(folder):
    data = Rooms(_config(folder)).split("val", seed=0)
    clip = data.clip(0)
    truth = render_room(int(clip.source_id.removeprefix("room")), 8, 32)
    frames = list(clip.frame_ids)
    assert frames == sorted(frames)
    np.testing.assert_array_equal(clip.images.numpy(), truth["images"][frames])
    np.testing.assert_array_equal(clip.depth.numpy(), truth["depth"][frames])
    np.testing.assert_array_equal(clip.world_to_cam.numpy(), truth["world_to_cam"][frames])
    assert bool(clip.depth_valid.all()) and clip.has_geometry


def test_several_processes_render_the_same_as_one(tmp_path):
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        write_rooms(tmp_path / str(workers), range(32), 1, 16, workers, "some")
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_failing_worker_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("spatialprior.data.rooms.render.sys.executable", "false")
    with pytest.raises(RuntimeError, match=r"render_workers=1"):
        write_rooms(tmp_path, range(32), 1, 16, 2, "some")


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest", "missing"])
def test_a_damaged_cache_is_reported_and_rendered_again(tmp_path, caplog, damage):
    before = Rooms(_config(tmp_path)).split("val", seed=0).clip(0)
    [folder] = (path for path in (tmp_path / "rooms").iterdir() if path.is_dir())
    depth = folder / "depth.npy"
    content = bytearray(depth.read_bytes())
    if damage == "truncate":
        depth.write_bytes(content[:-100])
    elif damage == "flip":
        content[-50] ^= 1
        depth.write_bytes(content)
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        depth.unlink()
    with caplog.at_level(logging.WARNING):
        after = Rooms(_config(tmp_path)).split("val", seed=0).clip(0)
    assert "rendering it again" in caplog.text
    _same(before, after)
    assert not [
        p for p in (tmp_path / "rooms").iterdir() if p.name.startswith(".")
    ]  # nothing left behind


def test_a_sound_cache_is_not_rendered_again(folder, monkeypatch):
    Rooms(_config(folder)).split("test", seed=0)

    def refuse(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr("spatialprior.data.rooms.dataset.write_rooms", refuse)
    assert len(Rooms(_config(folder)).split("test", seed=1)) == 2


def test_the_environment_names_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path / "here"))
    Rooms(_config(tmp_path, cache_dir=None)).split("val", seed=0)
    assert (tmp_path / "here" / "rooms").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames_per_clip": 9}, "frames_per_clip=9"),
        ({"window": 1}, "window of 1"),
        ({"image_size": 60}, "multiple of 16"),
        ({"train_rooms": 0}, "train_rooms=0"),
        ({"train_rooms": 200_001}, "at most 200000"),
        ({"tasks": ["colour_at"]}, "did you mean color_at"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(folder, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Rooms(_config(folder, **changes))
    assert "\n" not in str(error.value)
