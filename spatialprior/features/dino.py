"""DINOv2 and DINOv3 through timm: the patch tokens, each frame on its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn

from spatialprior.features.early_exit import stop_at
from spatialprior.features.encoder import EncoderConfig, EncoderError, FeatureEncoder
from spatialprior.features.sources import (
    drawn_from,
    open_source,
    refuse_nano,
    revision_of,
    single_file,
)


@dataclass
class DinoV2Config(EncoderConfig):
    """What a recipe may set.

    Attributes:
        path: Folder or file with the safetensors weights of ``model``, or hub id; not read with random weights.
        model: timm's name of the architecture.
        layer: -1 is after the final norm; 0, 1, ... is the residual stream after that block, without a norm.
    """

    path: str = "timm/vit_large_patch14_dinov2.lvd142m"
    size: tuple[int, int] = (224, 224)
    model: str = "vit_large_patch14_dinov2"
    layer: int = -1


@dataclass
class DinoV3Config(DinoV2Config):
    """As :class:`DinoV2Config`."""

    path: str = "timm/vit_large_patch16_dinov3.lvd1689m"
    model: str = "vit_large_patch16_dinov3"


def _build(name: str, **settings: Any) -> nn.Module:
    # Any grid, its positions interpolated by timm as the model was trained to have them.
    model: nn.Module = timm.create_model(name, num_classes=0, dynamic_img_size=True, **settings)
    return model


@cache
def _outline(name: str) -> Any:
    """The architecture without storage, to read widths and depths from.

    Raises:
        EncoderError: timm has no such model, or it is no plain vision transformer.
    """
    if not timm.is_model(name):
        exist = ", ".join(timm.list_models("*dino*")[:6])
        raise EncoderError(f"model={name}: timm has no such model; it has {exist}, ...")
    try:
        with torch.device("meta"):
            outline = _build(name)
    except TypeError:
        outline = nn.Identity()
    if not (hasattr(outline, "blocks") and hasattr(outline, "num_prefix_tokens")):
        raise EncoderError(f"model={name} is no plain vision transformer; take a vit_* of timm")
    return outline


class DinoV2(FeatureEncoder):
    """Patch tokens of a timm vision transformer with 14 pixel patches (VEGA-3D, fact sheet section 2).

    Class and register tokens are dropped. Random weights keep timm's initialisation; DINOv2's layer scale
    starts at 1e-5, so its random control is nearly a random linear map of each patch plus the position.
    """

    Config: ClassVar[type[EncoderConfig]] = DinoV2Config
    multiple: ClassVar[int] = 14
    config: DinoV2Config

    @classmethod
    def check(cls, config: EncoderConfig) -> None:
        assert isinstance(config, DinoV2Config)
        outline = _outline(config.model)
        if outline.patch_embed.patch_size != (cls.multiple, cls.multiple):
            raise EncoderError(
                f"model={config.model} has patches of {outline.patch_embed.patch_size[0]} pixels; "
                f"{cls.__name__} takes {cls.multiple}"
            )
        if not -1 <= config.layer < len(outline.blocks):
            raise EncoderError(
                f"layer={config.layer}: {config.model} has blocks 0 to {len(outline.blocks) - 1}, or -1 for "
                "the final norm"
            )
        if config.weights == "pretrained":
            refuse_nano(config, cls.__name__)

    @property
    def channels(self) -> int:
        return int(_outline(self.config.model).num_features)

    @cached_property
    def revision(self) -> str:
        """Commit or digest; for random weights the seed and the model's name are settings anyway."""
        if self.config.weights == "random":
            return f"random, timm {timm.__version__}"
        return revision_of(self.config)

    def load(self) -> nn.Module:
        self.check(self.config)
        name, dtype = self.config.model, getattr(torch, self.config.dtype)
        if self.config.weights == "random":
            with drawn_from(self.config.seed):
                return _build(name).to(dtype)
        source = open_source(self.config)
        file = single_file(source)
        described = file.parent / "config.json"
        if source.is_dir() and described.is_file():
            found = json.loads(described.read_text(encoding="utf-8")).get("architecture", name)
            if found != name:
                raise EncoderError(f"path={self.config.path} holds {found}: set model={found}")
        # num_classes of the checkpoint set to ours: timm otherwise loads with strict=False.
        overlay = {"file": str(file), "num_classes": 0, "custom_load": False}
        try:
            with drawn_from(0):
                return _build(name, pretrained=True, pretrained_cfg_overlay=overlay).to(dtype)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            raise EncoderError(f"path={self.config.path} does not fit {name}: {why}") from error

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        model: Any = module
        means = model.pretrained_cfg
        mean = pixels.new_tensor(means["mean"])[:, None, None]
        std = pixels.new_tensor(means["std"])[:, None, None]
        inputs = ((pixels - mean) / std).to(getattr(torch, self.config.dtype))
        if self.config.layer < 0:
            tokens = model.forward_features(inputs)
        else:
            with stop_at(model.blocks[self.config.layer], "output") as captured:
                model.forward_features(inputs)
            tokens = captured.value
        tokens = tokens[:, model.num_prefix_tokens :].transpose(1, 2)
        rows, cols = (int(side) // self.multiple for side in pixels.shape[-2:])
        maps: Tensor = tokens.unflatten(-1, (rows, cols)).contiguous()
        return maps


class DinoV3(DinoV2):
    """The same for models with 16 pixel patches (rotary positions; one class and four register tokens)."""

    Config: ClassVar[type[EncoderConfig]] = DinoV3Config
    multiple: ClassVar[int] = 16
