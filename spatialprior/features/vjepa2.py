"""V-JEPA 2 through transformers: tubelets of two frames, all frames of a clip jointly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import VJEPA2Config as StockConfig
from transformers import VJEPA2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from spatialprior.features.early_exit import stop_at
from spatialprior.features.encoder import EncoderConfig, EncoderError, FeatureEncoder
from spatialprior.features.fit import Fit
from spatialprior.features.sources import refuse_nano
from spatialprior.features.stock import stock_configuration, stock_model, stock_revision


@dataclass
class VJepa2Config(EncoderConfig):
    """What a recipe may set.

    Attributes:
        path: Folder of transformers' format, or hub id. Random weights take the architecture from it.
        fit: ``stretch`` or ``crop``: transformers derives positions from a square grid.
        layer: -1 is after the final norm; 0, 1, ... is the residual stream after that layer.
    """

    path: str = "facebook/vjepa2-vitg-fpc64-384-ssv2"
    size: tuple[int, int] = (224, 224)
    fit: Fit = "stretch"
    layer: int = -1


class VJepa2(FeatureEncoder):
    """The encoder's tokens, each tubelet's map given to all its frames (VEGA-3D, fact sheet section 2).

    Frame t gets tubelet t // 2, which is the nearest index. A clip whose length is no multiple is filled with
    copies of its last frame.
    """

    Config: ClassVar[type[EncoderConfig]] = VJepa2Config
    joint: ClassVar[bool] = True
    multiple: ClassVar[int] = 16
    config: VJepa2Config

    @classmethod
    def check(cls, config: EncoderConfig) -> None:
        assert isinstance(config, VJepa2Config)
        refuse_nano(config, cls.__name__)
        if config.fit == "aspect" or config.size[0] != config.size[1]:
            raise EncoderError(
                f"fit={config.fit}, size={list(config.size)}: VJepa2 takes a square input (its positions "
                "are those of a square grid); set fit=stretch or crop and two equal sides"
            )

    @cached_property
    def stock_config(self) -> Any:
        """The stock configuration, its grid that of our input.

        Raises:
            EncoderError: There is none, it is another family's, or it has no such layer.
        """
        found = stock_configuration(self.config, StockConfig)
        if found.patch_size != self.multiple:
            raise EncoderError(f"path={self.config.path} has patches of {found.patch_size}, not 16")
        if not -1 <= self.config.layer < found.num_hidden_layers:
            raise EncoderError(
                f"layer={self.config.layer}: this V-JEPA 2 has layers 0 to {found.num_hidden_layers - 1}, or -1"
            )
        # Its rotary positions count rows of a crop_size grid, whatever the input is.
        found.crop_size = self.config.size[0]
        return found

    @property
    def channels(self) -> int:
        return int(self.stock_config.hidden_size)

    @cached_property
    def revision(self) -> str:
        return stock_revision(self.config)

    def load(self) -> nn.Module:
        self.check(self.config)
        return stock_model(self.config, self.stock_config, VJEPA2Model)

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        model: Any = module
        tubelet = int(model.config.tubelet_size)
        mean = pixels.new_tensor(IMAGENET_DEFAULT_MEAN)[:, None, None]
        std = pixels.new_tensor(IMAGENET_DEFAULT_STD)[:, None, None]
        inputs = (pixels - mean) / std
        if extra := -len(inputs) % tubelet:
            inputs = torch.cat([inputs, inputs[-1:].expand(extra, -1, -1, -1)])
        video = inputs.to(getattr(torch, self.config.dtype)).unsqueeze(0)
        if self.config.layer < 0:
            tokens = model(video, skip_predictor=True).last_hidden_state
        else:
            with stop_at(model.encoder.layer[self.config.layer], "output") as captured:
                model(video, skip_predictor=True)
            tokens = captured.value
        side = pixels.shape[-1] // self.multiple
        maps: Tensor = tokens[0].unflatten(0, (-1, side, side)).permute(0, 3, 1, 2)
        which = torch.arange(len(pixels), device=maps.device) // tubelet
        return maps[which]
