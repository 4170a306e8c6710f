"""DINOv2 with registers through transformers: the patch tokens, each frame on its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from spatialprior.features.components import NANO
from spatialprior.features.early_exit import stop_at
from spatialprior.features.encoder import EncoderConfig, EncoderError, FeatureEncoder
from spatialprior.features.fit import fitted_size
from spatialprior.features.sources import PREPROCESSOR, WEIGHTS, open_source
from spatialprior.features.stock import stock_configuration, stock_model, stock_revision

HUB_ID = "facebook/dinov2-with-registers-large"


@dataclass
class DinoV2RegistersConfig(EncoderConfig):
    """What a recipe may set; the defaults are G²VLM's (``g2vlm.md`` section 1).

    Attributes:
        path: Folder of transformers' format, hub id, or ``nano``. Random weights take the architecture from it.
        layer: -1 is after the final norm; 0, 1, ... is the residual stream after that block, without a norm.
    """

    path: str = HUB_ID
    size: tuple[int, int] = (518, 518)
    layer: int = -1


class DinoV2Registers(FeatureEncoder):
    """Patch tokens of ``Dinov2WithRegistersModel``; class and register tokens are dropped.

    Frames are items of a batch, so that none attends to another. Positions are interpolated to any grid by the
    stock class. Pixels are normalised as the folder's ``preprocessor_config.json`` says, without one by
    ImageNet's mean and deviation. ``path=nano`` is an embedded configuration, 3 blocks of width 64.
    """

    Config: ClassVar[type[EncoderConfig]] = DinoV2RegistersConfig
    config: DinoV2RegistersConfig

    @classmethod
    def check(cls, config: EncoderConfig) -> None:
        assert isinstance(config, DinoV2RegistersConfig)
        encoder = cls(config)
        wants_trained = config.path == "nano" and config.weights == "pretrained"
        if wants_trained and not (NANO / "dinov2_reg" / WEIGHTS).is_file():
            raise EncoderError(
                "path=nano: this package has no trained weights of dinov2_reg; set weights=random, or path "
                f"to a folder of transformers or a hub id such as {HUB_ID}"
            )
        depth = encoder.stock_config.num_hidden_layers
        if not -1 <= config.layer < depth:
            raise EncoderError(
                f"layer={config.layer}: {config.path} has blocks 0 to {depth - 1}, or -1 for the final norm"
            )
        try:
            fitted_size(config.size, config.size, config.fit, encoder.multiple)
        except ValueError as error:
            raise EncoderError(str(error)) from error

    @cached_property
    def source(self) -> EncoderConfig:
        """The settings, with the embedded folder in the place of ``nano``."""
        if self.config.path != "nano":
            return self.config
        return replace(self.config, path=str(NANO / "dinov2_reg"))

    @cached_property
    def stock_config(self) -> Any:
        """The stock configuration.

        Raises:
            EncoderError: There is none, it is another family's, or its patches or positions are not square.
        """
        found = stock_configuration(self.source, Dinov2WithRegistersConfig)
        for name in ("patch_size", "image_size"):
            if len(set(_sides(getattr(found, name)))) > 1:
                raise EncoderError(f"path={self.config.path}: {name} must have two equal sides")
        return found

    @property
    def multiple(self) -> int:
        return _sides(self.stock_config.patch_size)[0]

    @property
    def channels(self) -> int:
        return int(self.stock_config.hidden_size)

    @cached_property
    def revision(self) -> str:
        return stock_revision(self.source)

    @cached_property
    def normalisation(self) -> dict[str, list[float]]:
        """``mean`` and ``std`` of the three colours."""
        file = open_source(self.source) / PREPROCESSOR
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {
            "mean": list(values.get("image_mean", IMAGENET_DEFAULT_MEAN)),
            "std": list(values.get("image_std", IMAGENET_DEFAULT_STD)),
        }

    def settings(self) -> dict[str, Any]:
        # The revision of a local folder is of its configuration and weights alone.
        return {**super().settings(), **self.normalisation}

    def load(self) -> nn.Module:
        self.check(self.config)
        return stock_model(self.source, self.stock_config, Dinov2WithRegistersModel)

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        model: Any = module
        mean, std = (
            pixels.new_tensor(self.normalisation[name])[:, None, None] for name in ("mean", "std")
        )
        inputs = ((pixels - mean) / std).to(getattr(torch, self.config.dtype))
        if self.config.layer < 0:
            tokens = model(inputs).last_hidden_state
        else:
            with stop_at(model.encoder.layer[self.config.layer], "output") as captured:
                model(inputs)
            tokens = captured.value
        prefix = 1 + self.stock_config.num_register_tokens
        rows, cols = (int(side) // self.multiple for side in pixels.shape[-2:])
        maps: Tensor = tokens[:, prefix:].transpose(1, 2).unflatten(-1, (rows, cols)).contiguous()
        return maps


def _sides(value: int | list[int] | tuple[int, ...]) -> list[int]:
    """Height and width, where a configuration gives one number or both."""
    return [value, value] if isinstance(value, int) else [int(side) for side in value]
