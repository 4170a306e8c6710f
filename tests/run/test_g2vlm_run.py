"""The whole G²VLM-style recipe on a tiny world: two stages, both scored as geometry, the second as language."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from spatialprior.export import load_model, verify_manifest
from spatialprior.run.compose import compose_run
from spatialprior.run.errors import RunError
from spatialprior.run.pipeline import Pipeline, run_folder
from spatialprior.testing import plane_clip

WORLD = [
    "recipe=g2vlm_baseline",
    "trainer.steps=2",
    "trainer.clips_per_step=2",
    "phases.geometry.trainer.steps=2",
    "phases.geometry.trainer.clips_per_step=2",
    "geometry.clips=2",
    "geometry.max_points=200",
    "eval.clips=2",
    "eval.questions_per_clip=3",
    "eval.lookup_clips=2",
    "data.train_rooms=2",
    "data.val_rooms=2",
    "data.test_rooms=3",
    "data.frames_per_room=4",
    "data.window=3",
    "data.render_workers=0",
    "priors.geometry_expert.encoder.size=[32,32]",
    "priors.geometry_expert.encoder.weights=random",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory, nano_folder):
    base = tmp_path_factory.mktemp("g2vlm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIALPRIOR_CACHE", str(base / "cache"))
        yield [*WORLD, f"backbone.path={nano_folder}", f"output_root={base}/runs"]


def finished_run(argv):
    config = compose_run(argv)
    folder = run_folder(config)
    return folder, Pipeline(config, folder).run()


@pytest.fixture(scope="module")
def finished(world):
    return finished_run(world)


def weights(export):
    return load_file(export / "model.safetensors")


def expert(export):
    return load_file(export / "priors" / "geometry_expert.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_each_stage_trains_its_own_side(finished):
    folder, _ = finished
    first, last = folder / "phases" / "geometry" / "export", folder / "export"
    assert same(weights(first), weights(folder / "before" / "export"))
    assert same(expert(first), expert(last))
    assert not same(weights(last), weights(first))
    # The control sees the clips and steps of the last stage alone.
    control = (folder / "control" / "log.jsonl").read_text().splitlines()
    assert len(control) == 2 and "raw/language" in json.loads(control[0])
    lines = (folder / "phases" / "geometry" / "log.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    assert {f"raw/geometry_expert/{name}" for name in ("points", "normals", "rotation")} <= set(row)
    assert "lr/backbone" not in row


def test_the_report_has_geometry_beside_language(finished):
    folder, report = finished
    assert list(report["geometry"]) == ["geometry", "after"]
    for name, result in report["geometry"].items():
        assert result["figures"]["depth.median.abs_rel"]["n"] == 6  # views
        assert result["figures"]["pose.vggt.auc30"]["n"] == 6  # pairs
        assert (folder / "pictures" / f"geometry_{name}.npz").is_file()
    assert report["eval"] and report["eval_control"] and report["eval_vs_control"]
    page = (folder / "report.html").read_text()
    assert "re-implementation" in page and "://" not in page.replace("http://www.w3.org", "")


def test_the_export_answers_and_predicts(finished):
    folder, report = finished
    assert report["export"]["kept"]["identical_logits"]
    assert (
        verify_manifest(folder / "export")["priors"]["geometry_expert"]["kind"] == "geometry_expert"
    )
    model = load_model(folder / "export")
    clip = plane_clip(size=(64, 64))
    replies = model.backbone.generate(model.backbone.encoder().prompts([clip]), 2)
    assert replies.shape[0] == 1
    geometry = load_model(folder / "export", changes={"geometry_expert": {"stage": "geometry"}})
    (scene,) = geometry.predict(geometry.backbone.encoder()([clip]))["geometry_expert"]
    assert len(scene.points_cam) == clip.num_views and scene.cam_to_world.isfinite().all()


@pytest.mark.slow
def test_geometry_is_scored_anew_on_demand(finished):
    folder, report = finished
    again = Pipeline(
        compose_run([f"resume={folder}", "mode=eval", "geometry.clips=1"]), folder
    ).run()
    assert again["geometry"]["after"]["figures"]["depth.median.abs_rel"]["n"] == 3
    assert again["seconds"]["train.after"] == report["seconds"]["train.after"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["priors.geometry_expert.stage=vg_ce"],
        [
            "prior=[geometry_expert,gasp]",
            "priors.gasp.tokens=both",
            "priors.geometry_expert.stage=ce_ce",
        ],
        ["prior=[geometry_expert,vega3d]"],
    ],
    ids=["vg_ce", "gasp", "vega3d"],
)
def test_variants_and_combinations_run(world, changes):
    folder, report = finished_run([*world, *changes, "control=none"])
    kept = report["export"]["kept"]
    assert kept["identical_logits"] and "geometry_expert" in kept["kept"]
    assert report["geometry"]["after"]["figures"]
    moved = not same(expert(folder / "phases/geometry/export"), expert(folder / "export"))
    assert moved == ("vega3d" not in changes[0])


def test_two_paths_are_refused_before_anything_loads(world):
    two = {"kind": "geometry_expert", "encoder": {"kind": "dinov2_reg"}}
    argv = [*world, f"+priors.other={two}".replace("'", "")]
    with pytest.raises(RunError, match="'geometry_expert' and 'other' both send"):
        finished_run(argv)
