"""Ablations of a run: what is done, kept and told, and what is refused to be told."""

from __future__ import annotations

import json

import pytest

from spatialprior.run.ablations import ablation_of
from spatialprior.run.compose import compose_run
from spatialprior.run.pipeline import Pipeline, run_folder

ROOMS = ["train_rooms=2", "val_rooms=2", "test_rooms=4", "frames_per_room=4", "window=3",
         "render_workers=0"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, nano_folder):
    base = tmp_path_factory.mktemp("ablations")
    config = compose_run(
        [
            "recipe=gasp_qwen", "control=none", "trainer.steps=2", "trainer.clips_per_step=2",
            "probe.test_clips=0", "eval.clips=4", "eval.questions_per_clip=4",
            "eval.lookup_clips=4", "eval.ablate=[blind,zero_prior]", f"backbone.path={nano_folder}",
            *(f"{s}.{r}" for s in ("data", "instruction") for r in [*ROOMS, f"cache_dir={base}"]),
            f"output_root={base}/runs",
        ]
    )  # fmt: skip
    folder = run_folder(config)
    return folder, Pipeline(config, folder).run()


def test_an_ablation_is_told_beside_the_whole_model(finished):
    folder, report = finished
    blind = report["ablations"]["blind"]
    assert blind["applicable"] and blind["n"] == 16 and blind["clusters"] == 4
    assert blind["whole"] - blind["score"] == pytest.approx(blind["difference"])
    assert set(blind["tasks"]) == set(report["eval"])
    assert {"only_whole", "only_ablated", "p", "p_holm"} == set(blind["mcnemar"])
    rows = (folder / "replies" / "ablate.blind" / "replies.jsonl").read_text().splitlines()
    identity = json.loads(rows[0])["identity"]
    whole = (folder / "replies" / "after" / "replies.jsonl").read_text().splitlines()
    assert identity["protocol"]["ablation"] == "blind" and len(rows) == 17
    assert identity["version"] == json.loads(whole[0])["identity"]["version"]
    assert "ablate.blind" not in report["comparisons"]
    page = (folder / "report.html").read_text()
    assert "Does it matter?" in page and "Without its views" in page


def test_a_prior_that_the_export_lacks_is_not_applicable(finished):
    folder, report = finished
    entry = report["ablations"]["zero_prior"]
    assert not entry["applicable"] and "score" not in entry
    assert entry["reason"] == "not applicable: the export holds no prior"
    assert not (folder / "replies" / "ablate.zero_prior").exists()


def test_leaks_are_part_of_the_report(finished):
    assert finished[1]["leaks"]["shared"] == 0
    assert finished[1]["leaks"]["sources"]["data (rooms)"]["audited"]


def test_on_a_finished_run_only_what_is_new_is_answered(finished):
    folder, report = finished
    stage = folder / "stages" / "eval.ablate.blind.json"
    replies = folder / "replies" / "ablate.blind" / "replies.jsonl"
    before, written = json.loads(stage.read_text())["result"], replies.read_text()
    typed = [f"resume={folder}", "mode=eval", "eval.ablate=[blind,shuffled_frames]"]
    again = Pipeline(compose_run(typed), folder).run()
    assert list(again["ablations"]) == ["blind", "shuffled_frames"]
    # Adjusted for two now, with the same figures otherwise.
    for entry in (again["ablations"]["blind"], report["ablations"]["blind"]):
        entry["mcnemar"].pop("p_holm")
    assert again["ablations"]["blind"]["mcnemar"] == report["ablations"]["blind"]["mcnemar"]
    assert json.loads(stage.read_text())["result"] == before and replies.read_text() == written
    # A report drawn anew tells all that is there, and what the recipe asks for.
    told = Pipeline(compose_run([f"resume={folder}", "mode=report"]), folder).run()
    assert list(told["ablations"]) == ["blind", "shuffled_frames", "zero_prior"]


@pytest.mark.parametrize(
    ("typed", "zero", "other"),
    [
        (["recipe=sft_qwen"], "the export holds no prior", "the export holds no prior"),
        (["recipe=vega3d_baseline"], None, None),
        (["recipe=g2vlm_baseline"], None, "not available for geometry_expert"),
        (
            ["recipe=vega3d_baseline", "priors.vega3d.source=own_vision", "inference_arms={}"],
            "source=own_vision has none",
            "source=own_vision has none",
        ),
        (["recipe=gasp_qwen", "prior=[gasp,vega3d]"], None, None),
    ],
)
def test_what_each_prior_can_do_without(typed, zero, other):
    config = compose_run(typed)
    for name, reason in (("zero_prior", zero), ("other_scene_prior", other)):
        found = ablation_of(config, name)
        if reason is None:
            assert found.reason is None and list(found.changed) == [
                prior for prior in config.priors if prior != "gasp"
            ]
            assert {c.settings.at_inference for c in found.changed.values()} == {
                name.removesuffix("_prior")
            }
        else:
            assert reason in found.reason and not found.changed
