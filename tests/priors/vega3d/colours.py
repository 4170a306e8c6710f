"""What tests of the injector share: an encoder of six colours, models and clips around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spatialprior.core.clip import MultiViewClip
from spatialprior.features.encoder import FeatureEncoder
from spatialprior.model import SpatialModel
from spatialprior.priors.vega3d.injector import Vega3d
from spatialprior.testing import plane_clip, tiny_backbone


class Colours(FeatureEncoder):
    """Six numbers for every 8-pixel cell of the input: mean and a fixed mixture of its colours."""

    multiple = 8

    @property
    def channels(self) -> int:
        return 6

    @property
    def revision(self) -> str:
        return "colours-1"

    def load(self) -> nn.Module:
        torch.manual_seed(self.config.seed if self.config.weights == "random" else 99)
        return nn.Conv2d(3, 3, 1)

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        small = F.avg_pool2d(pixels, 8)
        return torch.cat([small, module(small)], dim=1)


def prior(**settings: Any) -> Vega3d:
    encoder = {"kind": "colours", **settings.pop("encoder", {})}
    return Vega3d(Vega3d.Config(encoder=encoder, **settings))


def model(kind: str = "qwen2_5_vl", **settings: Any) -> SpatialModel:
    torch.manual_seed(0)
    return SpatialModel(tiny_backbone(kind=kind), {"vega3d": prior(**settings)})


def asked(clip_id: str = "plane", **kwargs: Any) -> MultiViewClip:
    return plane_clip(clip_id, questions=[("Is it far?", "yes")], **kwargs)


def nudge(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
