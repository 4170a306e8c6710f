"""The geometry expert passes the conformance suite: every stage, form and family, alone and beside others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from spatialprior.core.clip import MultiViewClip
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.priors.geometry_expert.injector import GeometryExpert
from spatialprior.priors.vega3d.injector import Vega3d
from spatialprior.testing import InjectorContract, plane_clip

NANO: dict[str, Any] = {
    "encoder": {"kind": "dinov2_reg", "path": "nano", "weights": "random", "size": [32, 32]},
    "heads": {"width": 16, "blocks": 1, "heads": 2, "point_width": 16, "camera_width": 16},
    "cache_gb": 0.05,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "Geometry": {},
    "CeCe": {"stage": "ce_ce"},
    "VgCe": {"stage": "vg_ce"},
    "Copied": {"stage": "vg_ce", "expert": {"init": "copy", "layer_scale": None}},
    "Narrow": {"stage": "vg_ce", "expert": {"form": "narrow", "width": 32, "mlp_width": 48}},
    "Lora": {"stage": "vg_ce", "expert": {"form": "lora", "rank": 4, "alpha": 8}},
    "OwnEncoder": {"stage": "vg_ce", "train_encoder": True},
    "FramesInOrder": {"attention": "frame_causal", "positions": "sequential"},
    "Confident": {
        "stage": "vg_ce",
        "attention": "frame",
        "heads": {**NANO["heads"], "confidence": True},
    },
    "LocalOnly": {"loss": {"global_points": 0, "normals": 0}},
}
FAMILIES = {
    "Qwen2_5VLVideo": ("qwen2_5_vl", "video"),
    "Qwen2VL": ("qwen2_vl", "images"),
    "Qwen3VL": ("qwen3_vl", "images"),
    "LlavaNextVideo": ("llava_next_video", "video"),
    "LlavaOnevision": ("llava_onevision", "images"),
}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


class Suite(InjectorContract):
    injector_class = GeometryExpert
    config_kwargs: ClassVar[dict[str, Any]] = NANO

    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch: pytest.MonkeyPatch, features: str) -> None:
        monkeypatch.setenv("SPATIALPRIOR_CACHE", features)

    def clips(self) -> list[MultiViewClip]:
        if self.backbone_settings.get("frames") != "video":
            return super().clips()
        return [plane_clip("plane-a", num_views=4), plane_clip("plane-b", num_views=4)]


class TestBesideGasp(Suite):
    config_kwargs: ClassVar[dict[str, Any]] = {**NANO, "stage": "vg_ce"}

    def companions(self):
        return {"gasp": Gasp(Gasp.Config())}


class TestBesideVega3d(Suite):
    config_kwargs: ClassVar[dict[str, Any]] = {**NANO, "stage": "vg_ce"}

    def companions(self):
        encoder = {"kind": "wan_t2v", "path": "nano", "size": [32, 32], "layer": 1}
        return {"vega": Vega3d(Vega3d.Config(encoder=encoder, cache_gb=0.05))}


SLOW = {
    "Narrow",
    "OwnEncoder",
    "FramesInOrder",
    "Confident",
    "LocalOnly",
    "Qwen2VL",
    "LlavaNextVideo",
}
"""Run in CI beside the default suite, whose time is bounded; what is special to them is tested by itself."""


def suite(name: str, body: dict[str, Any]) -> type:
    cls = type(f"Test{name}", (Suite,), body)
    return pytest.mark.slow(cls) if name in SLOW else cls


for name, settings in VARIANTS.items():
    globals()[f"Test{name}"] = suite(name, {"config_kwargs": {**NANO, **settings}})

for name, (kind, frames) in FAMILIES.items():
    body = {
        "config_kwargs": {**NANO, "stage": "vg_ce"},
        "backbone_kind": kind,
        "backbone_settings": {"frames": frames} if kind != "qwen3_vl" else {},
    }
    globals()[f"Test{name}"] = suite(name, body)


def test_views_of_unlike_sizes_go_in(features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPATIALPRIOR_CACHE", features)
    model = TestVgCe().model()  # type: ignore[name-defined]  # noqa: F821
    clip = plane_clip("a", num_views=1)
    views = tuple(torch.zeros(3, *size, dtype=torch.uint8) for size in ((64, 64), (64, 128)))
    bare = {"depth": None, "intrinsics": None, "world_to_cam": None, "depth_valid": None}
    odd = replace(clip, images=views, frame_ids=(0, 1), **bare)
    batch = model.backbone.encoder()([odd, plane_clip("b")])
    terms = {term.name: term for term in model(batch)}
    assert terms["prior/points"].count == 3 * 3 * 32 * 32
    scenes = model.predict(batch)["prior"]
    assert [len(scene.points_cam) for scene in scenes] == [2, 3]
    assert len({view.shape for view in scenes[0].points_cam}) == 2
