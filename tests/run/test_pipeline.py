"""The whole path on a tiny world: every stage, resume, modes, the control and an ablation."""

import dataclasses
import json
import re

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from spatialprior.model import PriorNameError
from spatialprior.run.__main__ import main
from spatialprior.run.compose import compose_run
from spatialprior.run.errors import ConfigError, RunError, is_expected
from spatialprior.run.pipeline import Pipeline, run_folder

ROOMS = [
    "train_rooms=2",
    "val_rooms=2",
    "test_rooms=2",
    "frames_per_room=4",
    "window=3",
    "render_workers=0",
]
TINY = [
    "trainer.steps=2",
    "trainer.clips_per_step=2",
    "probe.val_clips=2",
    "probe.test_clips=2",
    "eval.clips=2",
    "eval.questions_per_clip=4",
    "eval.lookup_clips=4",
    *(f"{source}.{setting}" for source in ("data", "instruction") for setting in ROOMS),
]
ARMS = {"before", "after", "control", "corr_only"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, nano_folder):
    base = tmp_path_factory.mktemp("pipeline")
    return [
        *TINY,
        f"backbone.path={nano_folder}",
        f"data.cache_dir={base}/cache",
        f"instruction.cache_dir={base}/cache",
        f"output_root={base}/runs",
    ]


@pytest.fixture(scope="module")
def finished(world):
    config = compose_run(
        ["recipe=gasp_qwen", "arms={corr_only: {gasp: {depth_weight: 0}}}", *world]
    )
    folder = run_folder(config)
    return folder, Pipeline(config, folder).run()


def test_report_has_every_arm_and_field(finished):
    _, report = finished
    assert set(report["probe"]) == ARMS
    for arm in report["probe"].values():
        assert {
            "pck_by_layer",
            "peak_pck",
            "chance",
            "static",
            "temporal_robustness",
            "settings",
        } <= set(arm)
        assert 0 < arm["chance"] < 0.1 and arm["n_anchors"] > 50
    assert report["export"]["identical_logits"] and not report["export"]["extra_keys"]
    assert report["export"]["parameters"] == report["export"]["stock_parameters"]
    for row in report["eval"].values():
        assert {"score", "chance", "blind", "n", "ci95"} <= set(row)
    assert report["seconds"]["total"] > 0 and report["peak_rss_bytes"] > 1e8
    assert report["eval"].keys() == report["eval_control"].keys() == report["eval_before"].keys()


def test_run_folder_is_complete(finished):
    folder, report = finished
    assert json.loads((folder / "report.json").read_text()) == report
    page = (folder / "report.html").read_text()
    assert "re-implementation" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    for sub in (".", "control", "corr_only"):
        lines = [json.loads(line) for line in (folder / sub / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert ("raw/gasp/corr" in lines[0]) == (sub != "control")
        assert ("raw/gasp/depth" in lines[0]) == (sub == ".")


def test_every_score_has_a_card_that_verifies(finished, capsys):
    folder, report = finished
    assert report["cards"].keys() == ARMS
    for arm, card in report["cards"].items():
        written = json.loads((folder / card["file"]).read_text())
        assert written["run"]["arm"] == arm and written["data"]["split"] == "test"
        priors = (
            {} if arm in ("before", "control") else {"gasp": {"kind": "Gasp", "export": "discard"}}
        )
        assert written["model"]["priors"] == priors
        assert card["protocol"] == "own" and card["n"] == 8 and card["errors"] == 0
    assert main(["mode=verify", f"card={folder}"]) == 0
    assert capsys.readouterr().out.count("\nverified") == len(ARMS) + 3  # views taken away
    assert "Under which protocol" in (folder / "report.html").read_text()


def test_arms_start_alike_and_see_the_same_clips(finished):
    folder, _ = finished
    losses = [
        json.loads((folder / sub / "log.jsonl").read_text().splitlines()[0])["raw/language"]
        for sub in (".", "control", "corr_only")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) == losses[2]


def test_export_loads_in_stock_classes(finished):
    folder, _ = finished
    AutoModelForImageTextToText.from_pretrained(folder / "export", local_files_only=True)
    AutoProcessor.from_pretrained(folder / "export", local_files_only=True)


def test_a_finished_run_resumes_without_doing_anything_again(finished):
    folder, report = finished
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "stages").iterdir()}
    again = Pipeline(compose_run([f"resume={folder}"]), folder).run()
    assert again["probe"] == report["probe"] and again["eval"] == report["eval"]
    assert {p: p.stat().st_mtime_ns for p in (folder / "stages").iterdir()} == stamps


@pytest.mark.slow
def test_mode_probe_looks_again_with_other_settings(finished):
    folder, report = finished
    flipped = not report["probe"]["after"]["settings"]["rope"]
    config = compose_run([f"resume={folder}", "mode=probe", f"probe.rope={str(flipped).lower()}"])
    again = Pipeline(config, folder).run()
    assert again["probe"]["after"]["settings"]["rope"] is flipped
    assert again["eval"] == report["eval"]


def test_plain_sft_needs_no_control_and_vqa_has_one(world, tmp_path):
    sft = Pipeline(compose_run(["recipe=sft_qwen", *world]), tmp_path)
    vqa = Pipeline(compose_run(["recipe=vqa_qwen", *world]), tmp_path)
    assert [arm.name for arm in sft.arms] == ["after"]
    assert [(arm.name, arm.vqa) for arm in vqa.arms] == [("after", True), ("control", False)]


def test_a_prior_named_like_a_torch_method_is_told_before_any_weight_loads(world):
    config = compose_run(["recipe=gasp_qwen", *world, "backbone.path=/no/such/model"])
    renamed = dataclasses.replace(config, priors={"keys": config.priors["gasp"]})
    with pytest.raises(PriorNameError, match="cannot be named 'keys'") as caught:
        Pipeline(renamed, run_folder(renamed)).run()
    assert is_expected(caught.value)


def test_an_ablation_of_a_missing_prior_is_one_line(world, tmp_path):
    with pytest.raises(ConfigError, match=r"arms.x.vega: this run's priors are gasp"):
        Pipeline(compose_run(["recipe=gasp_qwen", "arms={x: {vega: {a: 1}}}", *world]), tmp_path)


def test_sft_without_questions_is_refused(world, tmp_path):
    argv = [a for a in world if not a.startswith(("data.", "instruction.", "eval."))]
    argv += ["recipe=sft_qwen", "data=posed_rgbd", f"data.root={tmp_path}", "instruction=null"]
    config = compose_run([*argv, "eval=null"])
    with pytest.raises(RunError, match="add instruction=rooms"):
        Pipeline(config, tmp_path).run()


def test_sft_on_clips_that_ask_nothing_is_refused(world, tmp_path):
    argv = [a for a in world if not a.startswith(("instruction.", "eval."))]
    config = compose_run(["recipe=sft_qwen", *argv, "instruction=null", "eval=null"])
    with pytest.raises(RunError, match="add instruction=rooms"):
        Pipeline(config, tmp_path).run()


def test_lora_says_what_it_adapts(world):
    config = compose_run(
        [
            "recipe=gasp_qwen",
            *world,
            "control=none",
            "probe.test_clips=0",
            "backbone.lora.rank=2",
        ]
    )
    folder = run_folder(config)
    Pipeline(config, folder).run()
    names = (folder / "lora_targets.txt").read_text().split()
    assert len(names) == 4 * 7 and all("language_model.layers." in name for name in names)
