"""What tests of the geometry expert share: small experts on tiny backbones, and weights that look trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spatialprior.backbones.lora import LoraOptions, inject
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.injector import PriorInjector
from spatialprior.core.terms import total_loss
from spatialprior.features.dinov2_reg import DinoV2Registers
from spatialprior.model import SpatialModel
from spatialprior.priors.geometry_expert.injector import GeometryExpert
from spatialprior.testing import plane_clip, tiny_backbone

NANO: dict[str, Any] = {
    "encoder": {"kind": "dinov2_reg", "path": "nano", "weights": "random", "size": [32, 32]},
    "heads": {"width": 16, "blocks": 1, "heads": 2, "point_width": 16, "camera_width": 16},
    "cache_gb": 0.05,
}


def prior(**settings: Any) -> GeometryExpert:
    return GeometryExpert(GeometryExpert.Config(**{**NANO, **settings}))


def model(
    kind: str = "qwen2_5_vl",
    *,
    lora: LoraOptions | None = None,
    others: dict[str, PriorInjector] | None = None,
    **settings: Any,
) -> SpatialModel:
    """A tiny backbone with weights that look trained, and a new ``expert`` on it."""
    torch.manual_seed(0)
    backbone = tiny_backbone(kind=kind)
    shake(backbone.decoder, 0.05)
    if lora is not None:
        backbone.adapted = inject(backbone.hf, backbone.decoder_layers, lora)
    return SpatialModel(backbone, {"expert": prior(**settings), **(others or {})}).eval()


@torch.no_grad()
def shake(module: nn.Module, size: float = 0.1) -> None:
    """Move every parameter, as training would."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def backward(whole: SpatialModel, batch: ClipBatch) -> dict[str, float]:
    """The gradient of all losses; the counts of their terms."""
    terms = whole.train()(batch)
    counts = {term.name: term.count for term in terms}
    total_loss(terms, counts).backward()
    return counts


def text_only() -> MultiViewClip:
    return MultiViewClip("text", "t", (), (), questions=plane_clip().questions)


def without_geometry(clip: MultiViewClip) -> MultiViewClip:
    return replace(clip, depth=None, depth_valid=None, intrinsics=None, world_to_cam=None)


def encodings(monkeypatch: Any) -> list[int]:
    """Filled with the number of frames of every call of the encoder."""
    calls: list[int] = []
    stock = DinoV2Registers.encode_pixels

    def counting(self: Any, module: nn.Module, pixels: Any, seeds: list[int]) -> Any:
        calls.append(len(pixels))
        return stock(self, module, pixels, seeds)

    monkeypatch.setattr(DinoV2Registers, "encode_pixels", counting)
    return calls


def attention_outputs(module: nn.Module) -> Iterator[nn.Linear]:
    """The last map of every attention layer of the encoder."""
    for name, part in module.named_modules():
        if name.endswith(
            ("attention.o_proj", "attention.output.dense")
        ):  # newer and older releases
            assert isinstance(part, nn.Linear)
            yield part
