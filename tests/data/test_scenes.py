"""Scene ids of published data, out of paths as they are in the wild; and what datasets say of theirs."""

from __future__ import annotations

import json

import pytest

from spatialprior.data.conversations import LlavaJson
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.data.scenes import scene_ids, scenes_of


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("scannet/scene0011_00.mp4", {"scannet/scene0011"}),
        ("a/scene0011_01/color/120.jpg", {"scannet/scene0011"}),
        ("a/scene0011_00_vh_clean.ply", {"scannet/scene0011"}),
        ("scene0001_00 scene0002_00", {"scannet/scene0001", "scannet/scene0002"}),
        ("scannetpp/09c1414f1b.mp4", {"scannetpp/09c1414f1b"}),
        ("scannet++/1234567890/dslr", {"scannetpp/1234567890"}),
        ("arkitscenes/41069025.mp4", {"arkitscenes/41069025"}),
        ("ARKit/Training/48458427/48458427_frames", {"arkitscenes/48458427"}),
        ("mp3d/17DRP5sb8fy/0.jpg", {"matterport/17DRP5sb8fy"}),
        ("mp3d/EDJbREhghzL/0.jpg", {"matterport/EDJbREhghzL"}),
        ("3RScan/0cac7578-8d6f-2d13-8c2d-bfa7a04f8af3/sequence",
         {"3rscan/0cac7578-8d6f-2d13-8c2d-bfa7a04f8af3"}),
        # What must not be taken for a scene.
        ("coco/000000581929.jpg", set()),
        ("photos/20230401/1.jpg", set()),
        ("logs/1234567890.mp4", set()),
        ("Description/instruction/Handwritten", set()),
        ("myscene0001_00x/scene00111_00", set()),
        ("imageFolder_02/frame000001.png", set()),
        ("", set()),
    ],
)  # fmt: skip
def test_scene_ids(name, wanted):
    assert scene_ids(name) == wanted


def test_names_without_a_scene_are_counted():
    found = scenes_of(["scene0001_00", "scene0001_01", "cat.jpg"])
    assert found.known == {"scannet/scene0001"} and found.unnamed == 1


def test_rooms_say_theirs_without_rendering(tmp_path):
    rooms = Rooms(Rooms.Config(train_rooms=3, test_rooms=2, cache_dir=str(tmp_path)))
    train, test = rooms.scenes("train"), rooms.scenes("test")
    assert train.known == {"rooms/room0", "rooms/room1", "rooms/room2"} and len(test.known) == 2
    assert not train.known & test.known and not list(tmp_path.iterdir())
    clip = Rooms(Rooms.Config(train_rooms=1, render_workers=0, cache_dir=str(tmp_path)))
    assert f"rooms/{clip.split('train', 0).clip(0).source_id}" in train.known


def test_conversations_say_those_of_a_split(tmp_path):
    def record(i: int, *paths: str) -> dict:
        turns = [{"from": "human", "value": "<image>" * len(paths) + "where?"}]
        return {
            "id": i,
            "image": list(paths),
            "conversations": [*turns, {"from": "gpt", "value": "x"}],
        }

    names = [f"scannet/scene{i:04d}_{i % 3:02d}/color/0.jpg" for i in range(40)]
    records = [record(i, name, f"scannet/scene{i:04d}_00/1.jpg") for i, name in enumerate(names)]
    records += [record(99, "cat.jpg"), record(100)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    for path in {path for r in records for path in r["image"]}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()  # found, and never opened
    settings = {"path": str(tmp_path / "a.json"), "cache_dir": str(tmp_path / "cache")}
    half = LlavaJson(LlavaJson.Config(**settings, parts=(0.5, 0.0, 0.5)))
    train, test = half.scenes("train"), half.scenes("test")
    assert train.known | test.known == {f"scannet/scene{i:04d}" for i in range(40)}
    assert train.known and test.known and not train.known & test.known
    assert train.unnamed + test.unnamed == 2
    whole = LlavaJson(LlavaJson.Config(**settings, parts=(1.0, 0.0, 0.0)))
    assert len(whole.scenes("train").known) == 40 and not whole.scenes("val").known
    (tmp_path / "b.json").write_text(json.dumps([record(1, "cat.jpg")]))
    (tmp_path / "cat.jpg").touch()
    none = LlavaJson(LlavaJson.Config(**settings | {"path": str(tmp_path / "b.json")}))
    assert not none.scenes("train").known
