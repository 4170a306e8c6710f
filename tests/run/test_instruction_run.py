"""Instruction data through the real command line and pipeline, and what it says when it cannot work."""

import json

import numpy as np
import pytest
from PIL import Image

from spatialprior.run.compose import compose_run, load_run, save_run
from spatialprior.run.errors import ConfigError, RunError, is_expected
from spatialprior.run.pipeline import Pipeline, run_folder

ROOMS = ["train_rooms=2", "val_rooms=2", "test_rooms=2", "frames_per_room=4", "window=3"]
TINY = [
    "trainer.steps=2",
    "trainer.clips_per_step=4",
    "trainer.instruction_share=0.5",
    "probe.test_clips=0",
    "eval.clips=2",
    "eval.questions_per_clip=4",
    "eval.lookup_clips=4",
    *(f"data.{setting}" for setting in (*ROOMS, "render_workers=0")),
]


@pytest.fixture
def llava(tmp_path, make_video):
    """Two pictures, a video, and one picture that is missing."""
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 30)), ("b.png", (64, 64))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    make_video(tmp_path / "v.mp4", length=12)

    def record(key, media, question):
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "red"}]
        return {"id": question, key: media, "conversations": turns}

    records = [
        record("image", "a.png", "<image>\nwhat colour is it?"),
        record("image", ["a.png", "b.png"], "<image><image>\nwhat colour are they?"),
        record("video", "v.mp4", "<image>\nwhat colour is the last frame?"),
        record("image", "missing.png", "<image>\nwhat colour was it?"),
    ]
    (tmp_path / "chat.json").write_text(json.dumps(records))
    return tmp_path / "chat.json"


@pytest.fixture
def world(tmp_path, nano_folder):
    return [
        *TINY,
        f"backbone.path={nano_folder}",
        f"data.cache_dir={tmp_path}/cache",
        f"output_root={tmp_path}/runs",
    ]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_on_llava_json(world, llava, tmp_path, workers):
    config = compose_run(
        [
            "recipe=sft_qwen",
            *world,
            "instruction=llava_json",
            f"instruction.path={llava}",
            f"instruction.cache_dir={tmp_path}/cache",
            "instruction.parts=[1, 0, 0]",
            f"trainer.num_workers={workers}",
        ]
    )
    folder = run_folder(config)
    report = Pipeline(config, folder).run()
    assert report["eval"], "the rooms of data=rooms are scored in place of free-form answers"
    losses = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    bad = [json.loads(line) for line in (folder / "bad_media.jsonl").read_text().splitlines()]
    assert {line["path"] for line in bad} == {"missing.png"}
    assert load_run(folder / "recipe.yaml").instruction == config.instruction


MIXTURE = ["recipe=sft_qwen", "instruction=mixture", "instruction.sources.chat.path=/x"]


def test_mixture_recipe_takes_sizes_and_survives_the_recipe_file(tmp_path):
    config = compose_run([*MIXTURE, "instruction.sources.chat.weight=2.5"])
    rooms, chat = (config.instruction.settings.sources[name] for name in ("rooms", "chat"))
    assert rooms.settings.tasks != ["all"] and chat.settings.frames == 4  # from size=nano
    assert chat.weight == 2.5 and rooms.weight == 1
    save_run(config, tmp_path / "recipe.yaml")
    again = load_run(tmp_path / "recipe.yaml")
    assert again.instruction == config.instruction and again.fingerprint() == config.fingerprint()


def test_mixture_recipe_runs(world, llava, tmp_path):
    rooms = (*ROOMS, "questions_per_clip=4", "render_workers=0", f"cache_dir={tmp_path}/cache")
    config = compose_run(
        [
            *MIXTURE,
            *world,
            f"instruction.sources.chat.path={llava}",
            f"instruction.sources.chat.cache_dir={tmp_path}/cache",
            *(f"instruction.sources.rooms.{setting}" for setting in rooms),
        ]
    )
    assert Pipeline(config, run_folder(config)).run()["seconds"]["total"] > 0


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["instruction=llava_json"], "instruction.path has no value and needs one"),
        (["instruction=llava_video_178k"], "instruction.path has no value and needs one"),
        (["instruction=mixture"], r"instruction\.sources\.chat\.path has no value and needs one"),
        (
            [*MIXTURE[1:], "instruction.sources.chat.frams=2"],
            r"mean instruction\.sources\.chat\.frames",
        ),
        ([*MIXTURE[1:], "instruction.sources.chat.kind=lava_json"], "did you mean llava_json"),
        (
            [*MIXTURE[1:], "instruction.sources.x.weight=2"],
            r"add instruction\.sources\.x\.kind=NAME",
        ),
        ([*MIXTURE[1:], "instruction.sources.chat.weight=0"], "must be positive"),
        ([*MIXTURE[1:], "instruction.sources.chat.weight=much"], "expected a number"),
        ([*MIXTURE[1:], "instruction.sources=3"], "sources=3: expected a mapping"),
    ],
)
def test_recipes_that_cannot_be_are_told_in_one_line(argv, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        compose_run(["recipe=gasp_qwen", *argv])
    assert "\n" not in str(caught.value)


def refused(config, monkeypatch):
    monkeypatch.setattr(Pipeline, "_load", lambda *args: pytest.fail("weights were loaded"))
    with pytest.raises(Exception) as caught:
        Pipeline(config, run_folder(config)).run()
    assert is_expected(caught.value) and isinstance(caught.value, RunError)
    return str(caught.value)


def test_what_is_missing_is_told_before_weights_load(world, llava, tmp_path, monkeypatch):
    def config(*more):
        return compose_run(["recipe=sft_qwen", *world, "instruction=llava_json", *more])

    assert "instruction: path=/no/such: no such file" in refused(
        config("instruction.path=/no/such"), monkeypatch
    )
    (tmp_path / "elsewhere").mkdir()
    records = json.loads(llava.read_text())
    records[0]["image"] = "../../etc/passwd"
    (tmp_path / "evil.json").write_text(json.dumps(records))
    cache = f"instruction.cache_dir={tmp_path}/cache"
    message = refused(config(f"instruction.path={tmp_path}/evil.json", cache), monkeypatch)
    assert "evil.json, record at byte 1" in message and "leads out of the media folder" in message


def test_a_mixture_is_scored_on_its_part_with_short_answers(world):
    config = compose_run([*MIXTURE, *world, "instruction.sources.rooms.test_rooms=3"])
    benchmark = Pipeline(config, run_folder(config))._benchmark
    assert benchmark._data.config.test_rooms == 3


def test_free_form_answers_are_not_scored(llava, tmp_path, monkeypatch):
    """Recordings and LLaVA answers: nobody asks what a benchmark could compare."""
    frames = tmp_path / "recording"
    frames.mkdir()
    for i in range(60):
        Image.new("RGB", (8, 8)).save(frames / f"frame-{i:06d}.color.png")
        Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(frames / f"frame-{i:06d}.depth.png")
        np.savetxt(frames / f"frame-{i:06d}.pose.txt", np.eye(4))
    argv = [
        "recipe=sft_qwen",
        "data=posed_rgbd",
        f"data.root={frames}",
        "instruction=llava_json",
        f"instruction.path={llava}",
        f"instruction.cache_dir={tmp_path}/cache",
        f"output_root={tmp_path}/runs",
    ]
    message = refused(compose_run(argv), monkeypatch)
    assert "eval=null" in message and "PosedRgbd has none" in message
