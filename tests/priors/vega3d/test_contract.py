"""VEGA-3D passes the conformance suite: every fusion, every backbone family, alone and beside GASP."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from spatialprior.priors.gasp.injector import Gasp
from spatialprior.priors.vega3d.injector import Vega3d
from spatialprior.testing import InjectorContract, plane_clip

NANO = {"kind": "wan_t2v", "path": "nano", "size": [32, 32], "layer": 1}
FUSIONS: dict[str, dict[str, Any]] = {
    "PaperGate": {},
    "NormedGate": {"form": "normed"},
    "ResidualGate": {"form": "residual"},
    "ChannelGate": {"kind": "channel_gate"},
    "Add": {"kind": "add"},
    "Weighted": {"kind": "weighted"},
    "ChannelConcat": {"kind": "channel_concat"},
    "SequenceConcat": {"kind": "sequence_concat"},
    "CrossAttention": {"kind": "cross_attention"},
    "Only": {"kind": "only"},
}
FAMILIES = {
    "Qwen2_5VLVideo": ("qwen2_5_vl", "video"),
    "Qwen2VL": ("qwen2_vl", "images"),
    "Qwen2VLVideo": ("qwen2_vl", "video"),
    "Qwen3VL": ("qwen3_vl", "images"),
    "Qwen3VLVideo": ("qwen3_vl", "video"),
    "LlavaNextVideo": ("llava_next_video", "video"),
    "LlavaOnevision": ("llava_onevision", "images"),
    "LlavaOnevisionVideo": ("llava_onevision", "video"),
}
"""Beside Qwen2.5-VL with images, which every fusion runs on; LLaVA-NeXT's tiles are too many to train on."""


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


class Suite(InjectorContract):
    injector_class = Vega3d
    config_kwargs: ClassVar[dict[str, Any]] = {"encoder": NANO, "cache_gb": 0.05}

    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch: pytest.MonkeyPatch, features: str) -> None:
        monkeypatch.setenv("SPATIALPRIOR_CACHE", features)

    def clips(self):
        if self.backbone_settings.get("frames") != "video":
            return super().clips()
        # Merged in pairs, four views are two; OneVision wants all videos of one length.
        return [plane_clip("plane-a", num_views=4), plane_clip("plane-b", num_views=4)]


class TestBesideGasp(Suite):
    """GASP's losses flow through the fused tokens."""

    def companions(self):
        return {"gasp": Gasp(Gasp.Config(embedding_dim=16, anchors=[4], layers=[1]))}


SLOW = {"Add", "Weighted", "ChannelConcat", "Qwen2VL", "Qwen2VLVideo"}
"""Run in CI beside the default suite, whose time is bounded."""


def _suite(name: str, body: dict[str, Any]) -> type:
    cls = type(f"Test{name}", (Suite,), body)
    return pytest.mark.slow(cls) if name in SLOW else cls


for _name, _fusion in FUSIONS.items():
    _settings = {**Suite.config_kwargs, "fusion": _fusion}
    globals()[f"Test{_name}"] = _suite(_name, {"config_kwargs": _settings})
for _name, (_kind, _frames) in FAMILIES.items():
    _body = {"backbone_kind": _kind, "backbone_settings": {"frames": _frames}}
    globals()[f"Test{_name}"] = _suite(_name, _body)
