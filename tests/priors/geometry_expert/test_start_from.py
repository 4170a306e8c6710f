"""Training from the published checkpoint, on a small folder of its names. Never run on the real weights."""

from __future__ import annotations

import logging
import pickle
import shutil
from typing import Any

import pytest
import torch
from upstream_folder import Sizes, upstream_tensors, write

from spatialprior.export import load_model
from spatialprior.export.folder import export_model
from spatialprior.export.handover import begin
from spatialprior.model import SpatialModel
from spatialprior.priors.geometry_expert.injector import GeometryExpert
from spatialprior.priors.geometry_expert.upstream_names import UpstreamError, imported_names
from spatialprior.run.compose import compose_run
from spatialprior.run.pipeline import Pipeline
from spatialprior.testing import plane_clip, tiny_backbone

SIZES = Sizes(
    layers=4, blocks=1, d=64, head=32, kv=64, mlp=176, dino=64, patch=8, point=16, camera=16
)
HEADS = {"width": 64, "blocks": 1, "heads": 2, "point_width": 16, "camera_width": 16}
NANO: dict[str, Any] = {
    "encoder": {"kind": "dinov2_reg", "path": "nano", "weights": "random", "size": [32, 32]},
    "heads": HEADS,
    "cache_gb": 0,
}


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return upstream_tensors(SIZES)


@pytest.fixture
def folder(tmp_path, published):
    (tmp_path / "published").mkdir()
    return write(tmp_path / "published", published)


def config(**settings: Any):
    return GeometryExpert.Config(**{**NANO, **settings})


def model_of(**settings: Any) -> SpatialModel:
    return SpatialModel(tiny_backbone(kind="qwen2_vl"), {"g": GeometryExpert(config(**settings))})


def expected(published) -> dict[str, torch.Tensor]:
    """What every tensor of the prior should be: thirds of a fused matrix, or the published one itself."""
    found = {}
    for key, tensor in published.items():
        if names := imported_names(key):
            found |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    return {name: tensor.float() for name, tensor in found.items()}


def test_every_tensor_of_the_prior_is_the_published_one(folder, published, caplog):
    model = model_of(start_from=str(folder))
    stock = {name: p.clone() for name, p in model.backbone.hf.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        begin(model, None, resumed=False)
    own, wanted = model.injectors["g"].state_dict(), expected(published)
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[name], wanted[name]) for name in own)
    assert all(torch.equal(p, stock[name]) for name, p in model.backbone.hf.state_dict().items())
    line = caplog.messages[-1]
    assert f"{len(own)} tensors from {folder}" in line and "verify its geometry again" in line
    # And they are what a pass computes with.
    clip = plane_clip(num_views=2, size=(64, 64))
    scene = model.predict(model.backbone.encoder()([clip]))["g"][0]
    fresh = model_of().predict(model.backbone.encoder()([clip]))["g"][0]
    assert not torch.allclose(scene.points_cam[0], fresh.points_cam[0])


def test_a_head_that_the_checkpoint_lacks_is_drawn_and_said(folder, caplog):
    model = model_of(start_from=str(folder), heads={**HEADS, "confidence": True})
    model.injectors["g"].import_weights()
    drawn = [n for n in model.injectors["g"].state_dict() if n.startswith("heads.confidence.")]
    assert f", {len(drawn)} drawn" in caplog.messages[-1]


def test_without_the_setting_nothing_changes():
    model = model_of()
    before = {name: t.clone() for name, t in model.injectors["g"].state_dict().items()}
    begin(model, None, resumed=False)
    assert all(
        torch.equal(t, before[name]) for name, t in model.injectors["g"].state_dict().items()
    )


# --- refusals -----------------------------------------------------------------------------


def refused(**settings: Any) -> str:
    with pytest.raises(UpstreamError) as caught:
        GeometryExpert.check(config(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("expert", "name"),
    [
        ({"form": "narrow", "width": 32}, "expert.form=full, and it is narrow here"),
        ({"form": "lora"}, "expert.form=full, and it is lora here"),
        ({"qk_norm": False}, "expert.qk_norm=true, and it is false here"),
        ({"layer_scale": None}, "expert.layer_scale=0.01, or any number, and it is none here"),
    ],
)
def test_another_build_of_expert(folder, expert, name):
    assert name in refused(start_from=str(folder), expert=expert)


def test_a_folder_that_is_not_there_and_a_hub_id_offline(tmp_path, folder):
    assert f"start_from={tmp_path}/none does not exist" in refused(start_from=f"{tmp_path}/none")
    message = refused(start_from="InternRobotics/G2VLM-2B-MoT", start_revision="a" * 40)
    assert "hf download InternRobotics/G2VLM-2B-MoT --local-dir DIR, then start_from=DIR" in message
    assert "drop the revision" in refused(start_from=str(folder), start_revision="main")
    with pytest.raises(ValueError, match="start_revision=main is of start_from"):
        config(start_revision="main")


def test_pickles_are_not_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "trap"), "w")

    with (tmp_path / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Trap(), file)
    shutil.copy(tmp_path / "pytorch_model.bin", tmp_path / "model.pt")
    assert "other formats can run code and are not read" in refused(start_from=str(tmp_path))
    shutil.copy(tmp_path / "model.pt", tmp_path / "model.safetensors")
    assert "is no safetensors file" in refused(start_from=str(tmp_path))
    assert not (tmp_path / "trap").exists()


def test_an_unknown_key_is_told_before_the_backbone_loads(tmp_path, published):
    write(tmp_path, {**published, "camera_head.fc_fov.weight": torch.zeros(2, 16)})
    assert "camera_head.fc_fov.weight is neither" in refused(start_from=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dino2llm.weight": torch.zeros(64, 63)}, r"dino2llm.weight is \[64, 63\]"),
        ({"dino2llm.weight": None}, "nothing for projector.weight; is it a complete"),
    ],
)
def test_shapes_and_gaps_are_one_line_and_change_nothing(tmp_path, published, change, message):
    tensors = {n: t for n, t in {**published, **change}.items() if t is not None}
    model = model_of(start_from=str(write(tmp_path, tensors)))
    GeometryExpert.check(model.injectors["g"].config)
    before = {name: t.clone() for name, t in model.injectors["g"].state_dict().items()}
    with pytest.raises(UpstreamError, match=message) as caught:
        begin(model, None, resumed=False)
    assert "\n" not in str(caught.value)
    own = model.injectors["g"].state_dict()
    assert all(torch.equal(own[name], before[name]) for name in own)


def test_heads_of_another_size(folder):
    model = model_of(start_from=str(folder), heads={**HEADS, "width": 32})
    with pytest.raises(UpstreamError, match="this model's heads"):
        begin(model, None, resumed=False)


# --- once, and never again ----------------------------------------------------------------


def test_an_export_needs_the_folder_no_more(tmp_path, folder):
    model = model_of(start_from=str(folder))
    begin(model, None, resumed=False)
    with torch.no_grad():
        model.injectors["g"].norm.weight.add_(1)  # as if trained
    kept = {name: t.clone() for name, t in model.injectors["g"].state_dict().items()}
    export_model(model, tmp_path / "export", recipe_hash="test")
    shutil.rmtree(folder)
    loaded = load_model(tmp_path / "export").injectors["g"]
    assert loaded.config.start_from is None
    assert all(torch.equal(t, kept[name]) for name, t in loaded.state_dict().items())
    # The next phase's settings still name the folder: the export's tensors come in its place.
    following = model_of(start_from=str(folder), stage="ce_only")
    begin(following, tmp_path / "export", resumed=False)
    own = following.injectors["g"].state_dict()
    assert all(torch.equal(t, kept[name]) for name, t in own.items())


def test_a_checkpoint_of_all_that_trains_is_not_overwritten(folder):
    shutil.rmtree(folder)
    begin(model_of(start_from=str(folder)), None, resumed=True)
    with pytest.raises(
        UpstreamError, match="does not exist"
    ):  # a frozen expert is in no checkpoint
        begin(model_of(start_from=str(folder), stage="ce_only"), None, resumed=True)


def test_a_run_ships_what_it_started_from(tmp_path, folder, published, monkeypatch):
    """Answers alone train: what ships is the published expert, bit by bit."""
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path / "cache"))
    argv = ["recipe=g2vlm_baseline", "size=nano", "backbone=qwen2_vl", "backbone.path=nano"]
    argv += ["phases={}", "control=none", "eval=null", "geometry.clips=0", "trainer.steps=1"]
    argv += ["trainer.clips_per_step=1", f"output_root={tmp_path}"]
    argv += [f"data.{part}_rooms=1" for part in ("train", "val", "test")]
    argv += ["data.frames_per_room=4", "data.window=3", "data.render_workers=0"]
    prior = "priors.geometry_expert"
    argv += [f"{prior}.stage=ce_only", f"{prior}.start_from={folder}", f"{prior}.cache_gb=0"]
    argv += [f"{prior}.heads.{name}={value}" for name, value in HEADS.items()]
    encoder = {"path": "nano", "weights": "random", "size": "[32,32]"}
    argv += [f"{prior}.encoder.{name}={value}" for name, value in encoder.items()]
    run = tmp_path / "run"
    Pipeline(compose_run(argv), run).run()
    shutil.rmtree(folder)
    own = load_model(run / "export").injectors["geometry_expert"].state_dict()
    wanted = expected(published)
    assert all(torch.equal(own[name], wanted[name]) for name in own)
