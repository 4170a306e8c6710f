"""GASP passes the conformance suite on every backbone family, and in every way that its views can go in."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.registry import BACKBONES
from spatialprior.testing import InjectorContract, plane_clip, tiny_backbone

SUITES = {
    "Qwen2_5VLVideo": ("qwen2_5_vl", "video"),
    "Qwen2VL": ("qwen2_vl", "images"),
    "Qwen2VLVideo": ("qwen2_vl", "video"),
    "Qwen3VL": ("qwen3_vl", "images"),
    "Qwen3VLVideo": ("qwen3_vl", "video"),
    "LlavaNextVideo": ("llava_next_video", "video"),
    "LlavaOnevision": ("llava_onevision", "images"),
    "LlavaOnevisionVideo": ("llava_onevision", "video"),
}
"""Beside Qwen2.5-VL with images, which every suite runs on; LLaVA-NeXT's tiles are too many to train on."""


class OnFamily(InjectorContract):
    injector_class = Gasp
    config_kwargs: ClassVar[dict[str, Any]] = {
        "embedding_dim": 16,
        "anchors": [4],
        "layers": [0, 3],
    }

    def clips(self):
        if self.backbone_settings["frames"] == "images":
            return super().clips()
        # Merged in pairs, four views are two; OneVision wants all videos of one length.
        return [plane_clip("plane-a", num_views=4), plane_clip("plane-b", num_views=4)]


for name, (kind, frames) in SUITES.items():
    globals()[f"Test{name}"] = type(
        f"Test{name}",
        (OnFamily,),
        {"backbone_kind": kind, "backbone_settings": {"frames": frames}},
    )


def test_no_family_is_left_out():
    assert {kind for kind, _ in SUITES.values()} == set(BACKBONES.names())


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "llava_next_video"])
def test_videos_of_unlike_length_train_together(kind):
    backbone = tiny_backbone(kind=kind, frames="video")
    model = SpatialModel(backbone, {"gasp": Gasp(Gasp.Config(embedding_dim=16, anchors=[4]))})
    batch = backbone.encoder()([plane_clip("a", num_views=5), plane_clip("b", num_views=2)])
    terms = {term.name: term for term in model(batch)}
    assert terms["gasp/corr"].count > 0 and terms["gasp/corr"].sum.isfinite()
