"""Training scenes in a benchmark stop a run before anything loads; what cannot be told is named."""

from __future__ import annotations

import json

import pytest
import torch

from spatialprior.run import leaks
from spatialprior.run.arms import arms_of, trainings_of
from spatialprior.run.checks import check_run
from spatialprior.run.compose import compose_run
from spatialprior.run.errors import RunError
from spatialprior.run.pipeline import Pipeline, run_folder

CPU = torch.device("cpu")


@pytest.fixture
def asked(tmp_path):
    """A VSI-Bench folder that asks about two ScanNet rooms and one of ScanNet++."""
    folder = tmp_path / "vsi"
    folder.mkdir()
    scenes = [("scannet", "scene0001_00"), ("scannet", "scene0002_00"), ("scannetpp", "09c1414f1b")]
    records = [
        {
            "id": i, "dataset": data, "scene_name": scene, "question_type": "object_counting",
            "question": "How many?", "ground_truth": "1", "options": None, "pruned": False,
        }
        for i, (data, scene) in enumerate(scenes)
    ]  # fmt: skip
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, records)))
    return ["eval=vsi_bench", f"eval.root={folder}", "eval.check_counts=false"]


@pytest.fixture
def chat(tmp_path, monkeypatch):
    """Conversations about another recording of the first of these rooms, and about a cat."""
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path / "cache"))
    records = []
    for name in ("frames/scene0001_01/0.jpg", "cat.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        turns = [{"from": "human", "value": "<image>a"}, {"from": "gpt", "value": "b"}]
        records.append({"image": name, "conversations": turns})
    (tmp_path / "chat.json").write_text(json.dumps(records))
    return [
        "instruction=llava_json",
        f"instruction.path={tmp_path}/chat.json",
        "instruction.parts=[1,0,0]",
    ]


def audit(typed):
    config = compose_run(typed)
    return leaks.audit_of(config, trainings_of(arms_of(config, run_folder(config)))).to_dict()


@pytest.fixture
def nowhere(tmp_path):
    return [f"output_root={tmp_path}/runs", "recipe=gasp_qwen"]


def test_a_shared_room_stops_the_run_before_weights_load(asked, chat, nowhere, monkeypatch):
    config = compose_run([*nowhere, *asked, *chat])
    monkeypatch.setattr(config.backbone.cls, "load", lambda *_: pytest.fail("weights loaded"))
    wanted = (
        r"eval=vsi_bench: 1 scene \(scannet/scene0001; of instruction \(llava_json\)\) are in the training "
        r"data too.*eval\.allow_leaks=true"
    )
    with pytest.raises(RunError, match=wanted) as caught:
        check_run(config, 1, CPU)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=wanted):
        Pipeline(config, run_folder(config)).run()
    check_run(compose_run([*nowhere, *asked, *chat, "eval.allow_leaks=true"]), 1, CPU)


def test_data_that_is_not_there_stops_the_run_also_where_leaks_are_allowed(asked, nowhere):
    config = compose_run([*nowhere, *asked, "eval.root=/nowhere", "eval.allow_leaks=true"])
    with pytest.raises(RunError, match=r"eval\.root=/nowhere is no folder"):
        check_run(config, 1, CPU)


def test_the_report_of_such_a_run_would_say_so(asked, chat, nowhere):
    found = audit([*nowhere, *asked, *chat, "eval.allow_leaks=true"])
    assert found["shared"] == 1 and found["first"] == ["scannet/scene0001"]
    assert found["benchmark"] == {"audited": True, "scenes": 3, "unnamed": 0}
    assert found["sources"]["instruction (llava_json)"] == {
        "audited": True,
        "scenes": 1,
        "unnamed": 1,
    }


def test_the_embedded_rooms_are_apart(nowhere, monkeypatch):
    found = audit(nowhere)
    assert found["shared"] == 0 and found["benchmark"]["audited"]
    assert all(source["audited"] for source in found["sources"].values())
    config = compose_run(nowhere)
    seeds = config.data.cls._seeds
    monkeypatch.setattr(config.data.cls, "_seeds", lambda self, _: seeds(self, "test"))
    with pytest.raises(RunError, match=r"900 scenes \(rooms/room900000, .*instruction \(rooms\)"):
        check_run(config, 1, CPU)


def test_sources_of_a_phase_and_of_a_mixture_are_audited_too(asked, chat, nowhere, tmp_path):
    path = f"{tmp_path}/chat.json"
    mixed = f"sources: {{chat: {{kind: llava_json, path: {path}, parts: [1, 0, 0]}}, r: {{kind: rooms}}}}"
    phase = [f"phases={{warm: {{instruction: {{kind: mixture, {mixed}}}}}}}"]
    found = audit([*nowhere, *asked, *phase])
    assert found["shared"] == 1
    assert "phases.warm.instruction (llava_json)" in found["sources"]


def test_a_source_that_cannot_tell_or_is_gone_is_not_audited(asked, chat, nowhere, tmp_path):
    config = compose_run([*nowhere, *asked, *chat])
    (tmp_path / "chat.json").unlink()
    found = audit([*nowhere, *asked, *chat])
    assert "no such file" in found["sources"]["instruction (llava_json)"]["why"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(config.data.cls, "scenes")
        rooms = audit([*nowhere, *asked])["sources"]["data (rooms)"]
    assert rooms == {"audited": False, "why": "it cannot tell its scenes"}
