"""The geometry expert at the edges: no view in a batch, half precision, settings that cannot work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from experts import NANO, backward, model, prior, shake, text_only

from spatialprior.eval.geometry import evaluator
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.export import export_model
from spatialprior.model import SpatialModel
from spatialprior.priors.geometry_expert.injector import GeometryExpert
from spatialprior.run.checks import check_run
from spatialprior.run.compose import compose_run
from spatialprior.run.errors import RunError
from spatialprior.testing import plane_clip, tiny_backbone

pytestmark = pytest.mark.usefixtures("features")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"stage": "geometry"},
        {"stage": "ce_ce"},
        {"stage": "vg_ce"},
        {"stage": "vg_ce", "train_encoder": True},
        {"stage": "vg_ce", "expert": {"form": "lora", "rank": 4, "alpha": 8}},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_batch_of_text_alone_passes_and_is_stock(kind: str, settings: dict) -> None:
    whole = model(kind, **settings)
    shake(whole.injectors["expert"])
    batch = whole.backbone.encoder()([text_only()])
    contexts = whole.prepare(batch)
    with torch.no_grad():
        found = whole.backbone(batch, edits=whole.edits(contexts)).hidden
    backward(whole, batch)
    whole.detach()
    with torch.no_grad():
        assert torch.equal(found, whole.eval().backbone(batch).hidden)


@pytest.mark.parametrize("stage", ["geometry", "vg_ce"])
def test_a_backbone_in_half_precision(stage: str) -> None:
    backbone = tiny_backbone()
    backbone.hf.to(torch.bfloat16)
    whole = SpatialModel(backbone, {"expert": prior(stage=stage)})
    batch = backbone.encoder()([plane_clip("a")])
    backward(whole, batch)
    (scene,) = whole.eval().predict(batch)["expert"]
    assert scene.points_cam[0].dtype == torch.float32 and scene.points_cam[0].isfinite().all()
    own = dict(whole.injectors["expert"].named_parameters())
    assert own["layers.0.q_proj.weight"].grad.any()


def test_compiled_layers_are_refused() -> None:
    backbone = tiny_backbone()
    backbone.compile_layers("eager")
    with pytest.raises(ValueError, match=r"scale\.compile=false"):
        SpatialModel(backbone, {"expert": prior()})
    random = "priors.geometry_expert.encoder.weights=random"
    config = compose_run(["recipe=g2vlm_baseline", "scale.compile=true", random])
    with pytest.raises(RunError, match=r"scale\.compile=false"):
        check_run(config, 1, CPU)


def test_detach_gives_back_what_a_stage_froze() -> None:
    whole = model(stage="geometry")
    assert not any(p.requires_grad for p in whole.backbone.parameters())
    whole.detach()
    assert all(p.requires_grad for p in whole.backbone.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {**NANO["encoder"], "fit": "crop"}}, "fit=crop"),
        ({"train_encoder": True, "encoder": {**NANO["encoder"], "pool": [2, 2]}}, "pool"),
    ],
)
def test_settings_that_would_misplace_geometry_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeometryExpert.check(GeometryExpert.Config(**{**NANO, **changes}))


def test_phases_that_cannot_hand_over_are_refused_before_they_train() -> None:
    config = compose_run(
        ["recipe=g2vlm_baseline", "phases.geometry.priors.geometry_expert.expert.form=lora"]
    )
    with pytest.raises(RunError, match="expert must be the same in all phases"):
        check_run(config, 1, CPU)


def test_a_first_clip_without_depth_costs_the_picture_only(tmp_path: Path) -> None:
    whole = model(stage="geometry")
    export_model(whole, tmp_path / "export", recipe_hash="0")
    bare = plane_clip("bare")
    bare = dataclasses.replace(bare, depth_valid=torch.zeros_like(bare.depth_valid))
    settings = GeometryEvalConfig(clips=2, max_points=100)
    picture = tmp_path / "picture.npz"
    result = evaluator.evaluate_geometry(
        tmp_path / "export", [bare, plane_clip("seen")], settings, picture=picture
    )
    assert result is not None and result["figures"]["depth.median.abs_rel"]["n"] == 3
    assert picture.is_file()
