"""The whole VEGA-3D recipe on a tiny world: every control is trained or scored, and the report answers."""

from __future__ import annotations

import json
import re

import pytest
import torch

from spatialprior.core.injector import ExportMode
from spatialprior.export import load_model, verify_manifest
from spatialprior.run.__main__ import main
from spatialprior.run.compose import compose_run
from spatialprior.run.errors import EXIT_FAILED, EXIT_USAGE, ConfigError
from spatialprior.run.pipeline import Pipeline, run_folder
from spatialprior.testing import plane_clip

WORLD = [
    "recipe=vega3d_baseline",
    "trainer.steps=2",
    "trainer.clips_per_step=2",
    "eval.clips=4",
    "eval.questions_per_clip=4",
    "eval.lookup_clips=4",
    "data.train_rooms=2",
    "data.val_rooms=2",
    "data.test_rooms=4",
    "data.frames_per_room=4",
    "data.window=3",
    "data.render_workers=0",
]
TRAINED = ["random_weights", "noise", "own_vision"]
RESCORED = ["zero_features", "shuffled_features", "other_scene"]


@pytest.fixture(scope="module")
def world(tmp_path_factory, nano_folder):
    base = tmp_path_factory.mktemp("vega")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIALPRIOR_CACHE", str(base / "cache"))
        yield [*WORLD, f"backbone.path={nano_folder}", f"output_root={base}/runs"]


@pytest.fixture(scope="module")
def finished(world):
    config = compose_run(world)
    folder = run_folder(config)
    return folder, Pipeline(config, folder).run()


def test_every_control_is_compared(finished):
    folder, report = finished
    assert list(report["comparisons"]) == ["control", *TRAINED, *RESCORED]
    for name, gap in report["comparisons"].items():
        assert gap["n"] > 0 and gap["at_inference"] == (name in RESCORED)
        assert (folder / "replies" / name / "replies.jsonl").is_file()
    page = (folder / "report.html").read_text()
    assert "Does the prior do anything here?" in page and "re-implementation" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_arms_differ_in_what_they_are_fed_and_in_nothing_else(finished):
    folder, _ = finished
    priors = {}
    for name in ["", *TRAINED]:
        manifest = verify_manifest(folder / name / "export")
        priors[name] = manifest["priors"]["vega3d"]
        assert priors[name]["export"] == ExportMode.KEEP.value
    assert len({entry["parameters"] for entry in priors.values()}) == 1
    fed = {name: entry["settings"] for name, entry in priors.items()}
    assert fed["random_weights"]["encoder"]["weights"] == "random"
    assert fed["noise"]["source"] == "noise" and fed["own_vision"]["source"] == "own_vision"
    assert "vega3d" not in verify_manifest(folder / "control" / "export")["priors"]
    lines = {
        name: [json.loads(row) for row in (folder / name / "log.jsonl").read_text().splitlines()]
        for name in ["", "control", *TRAINED]
    }
    assert {len(rows) for rows in lines.values()} == {2}
    assert "lr/priors.vega3d" in lines[""][0] and "lr/priors.vega3d" not in lines["control"][0]


def test_the_export_answers_as_it_was_scored(finished):
    folder, report = finished
    model = load_model(folder / "export")
    assert report["export"]["kept"]["identical_logits"]
    batch = model.backbone.encoder().prompts([plane_clip(size=(64, 64))])
    with torch.no_grad():
        served = model.backbone(batch).hidden
        stock = model.backbone(batch, edits={}).hidden
    assert not torch.equal(served, stock)


def test_a_finished_run_resumes_to_the_same_report_and_rescores_on_demand(finished):
    folder, report = finished
    again = Pipeline(compose_run([f"resume={folder}"]), folder).run()
    assert again["comparisons"] == report["comparisons"] and again["seconds"] == report["seconds"]
    more = compose_run(
        [f"resume={folder}", "inference_arms={only_zero: {vega3d: {at_inference: zero}}}"]
    )
    found = Pipeline(more, folder).run()["comparisons"]
    assert found["only_zero"]["mean"] == report["comparisons"]["zero_features"]["mean"]
    # Another meaning under the same name is scored anew.
    (folder / "replies" / "only_zero" / "replies.jsonl").unlink()
    other = compose_run(
        [f"resume={folder}", "inference_arms={only_zero: {vega3d: {at_inference: shuffled}}}"]
    )
    changed = Pipeline(other, folder).run()["comparisons"]
    assert changed["only_zero"]["mean"] == report["comparisons"]["shuffled_features"]["mean"]
    assert (folder / "replies" / "only_zero" / "replies.jsonl").is_file()


def said(folder, arm):
    lines = (folder / "replies" / arm / "replies.jsonl").read_text().splitlines()[1:]
    return {row["id"]: row["reply"] for row in map(json.loads, lines)}


def test_ablations_of_the_prior_are_its_inference_arms_under_another_name(finished):
    folder, report = finished
    typed = [f"resume={folder}", "eval.ablate=[zero_prior,other_scene_prior]"]
    found = Pipeline(compose_run(typed), folder).run()["ablations"]
    for name, arm in (("zero_prior", "zero_features"), ("other_scene_prior", "other_scene")):
        assert said(folder, f"ablate.{name}") == said(folder, arm)
        assert found[name]["difference"] == report["comparisons"][arm]["mean"]
        assert found[name]["what"].endswith("(vega3d)")


@pytest.mark.slow
def test_it_combines_with_gasp(world, tmp_path):
    settings = [w for w in world if not w.startswith("recipe=")]
    more = [w.replace("data.", "instruction.") for w in settings if w.startswith("data.")]
    config = compose_run(
        ["recipe=gasp_qwen", "prior=[gasp,vega3d]", "control=none", "probe.val_clips=2",
         "probe.test_clips=2", *settings, *more]
    )  # fmt: skip
    report = Pipeline(config, tmp_path).run()
    assert report["probe"]["after"]["n_anchors"] > 0
    manifest = verify_manifest(tmp_path / "export")
    assert {n: entry["export"] for n, entry in manifest["priors"].items()} == {
        "gasp": "discard",
        "vega3d": "keep",
    }


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["encoder=dinov3"], r"priors\.vega3d: .*path"),
        (["priors.vega3d.encoder.layer=99"], r"layer=99: nano has blocks 0 to"),
        (["priors.vega3d.encoder.path=/nowhere"], r"path=/nowhere does not exist"),
        (["priors.vega3d.encoder.layr=3"], r"unknown wan_t2v setting .*did you mean"),
        (["priors.vega3d.fusion.kind=gate"], r"expected one of token_gate"),
        (["arms={x: {vega3d: {sauce: noise}}}"], r"unknown vega3d setting arms\.x\.vega3d\.sauce"),
        (["inference_arms={noise: {vega3d: {}}}"], r"arms has one of this name"),
        (
            ["inference_arms={x: {vega3d: {fusion: {kind: add}}}}"],
            r"x\.vega3d\.fusion cannot change after",
        ),
        (["priors.vega3d.source=own_vision"], r"zero_features.*source=own_vision has none"),
        (["arms={x: {vega3d: {encoder: {kind: sd21}}}}"], r"hub cannot be reached"),
        (["mode=plan"], r"does not count the frozen models that vega3d runs"),
    ],
)
def test_bad_settings_are_told_in_one_line_before_any_training(typed, message, world, capsys):
    assert main([*world, *typed]) in (EXIT_FAILED, EXIT_USAGE)
    # A fixture's progress bars may come first; what is told is one line, and the last.
    *_, told = capsys.readouterr().err.strip().splitlines()
    assert told.startswith("spatialprior: "), told
    assert re.search(message, told), told


@pytest.mark.slow
def test_correspondence_mode(world, tmp_path, capsys):
    typed = [
        *world,
        f"output_root={tmp_path}",
        "mode=correspondence",
        "correspondence.clips=2",
        "correspondence.axes={layer: [0, 1], noise_level: [0.0, 0.3]}",
    ]
    assert main(typed) == 0
    out = capsys.readouterr().out
    assert "all pairs of views" in out and "adjacent" in out and "chance" in out
    assert "random weights" in out and "layer=1, noise_level=0.3" in out
    names = {path.name for path in (tmp_path / "correspondence").iterdir()}
    assert "wan_t2v-rooms.json" in names and "wan_t2v-rooms-retrieval.png" in names
    table = json.loads((tmp_path / "correspondence" / "wan_t2v-rooms.json").read_text())
    assert len(table["cells"]) == 4


def test_correspondence_of_the_encoder_as_it_is(world, tmp_path, capsys):
    typed = [*world, f"output_root={tmp_path}", "mode=correspondence", "correspondence.clips=2"]
    assert main(typed) == 0
    assert "all pairs of views" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "correspondence").iterdir()] == ["wan_t2v-rooms.json"]


def test_correspondence_needs_an_encoder_and_clips(capsys):
    assert main(["recipe=gasp_qwen", "mode=correspondence"]) == 2
    assert "choose recipe=vega3d_baseline" in capsys.readouterr().err
    typed = [
        "recipe=vega3d_baseline",
        "mode=correspondence",
        "data=posed_rgbd",
        "data.root=/nowhere",
    ]
    assert main(typed) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_arms_of_a_prior_that_is_not_there(world, tmp_path):
    with pytest.raises(
        ConfigError, match=r"arms\.random_weights\.vega3d: this run's priors are gasp"
    ):
        Pipeline(compose_run([*world, "prior=[gasp]"]), tmp_path)
