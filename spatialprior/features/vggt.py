"""VGGT through the package ``vggt`` that a user installs: the aggregator's patch tokens, all frames jointly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spatialprior.features.encoder import EncoderConfig, EncoderError, FeatureEncoder
from spatialprior.features.sources import (
    drawn_from,
    open_source,
    refuse_nano,
    revision_of,
    single_file,
)

PACKAGE = (
    "git+https://github.com/facebookresearch/vggt.git@a288dd0f14786c93483e45524328726ab7b1b4ce"
)


@dataclass
class VggtConfig(EncoderConfig):
    """What a recipe may set.

    Attributes:
        path: Folder or file with safetensors weights, or hub id; not read with random weights.
        embed_dim: Width of the aggregator, as ``VGGT(embed_dim=...)`` takes it.
    """

    path: str = "facebook/VGGT-1B"
    size: tuple[int, int] = (196, 196)
    embed_dim: int = 1024


class Vggt(FeatureEncoder):
    """The last aggregator block: frame and global attention side by side (VEGA-3D, fact sheet section 2).

    Only tested against a stand-in of the same interface, not against the real package and weights.
    """

    Config: ClassVar[type[EncoderConfig]] = VggtConfig
    joint: ClassVar[bool] = True
    multiple: ClassVar[int] = 14
    config: VggtConfig

    @classmethod
    def check(cls, config: EncoderConfig) -> None:
        if config.weights == "pretrained":
            refuse_nano(config, cls.__name__)

    @property
    def channels(self) -> int:
        return 2 * self.config.embed_dim

    @cached_property
    def revision(self) -> str:
        """Commit or digest; the seed of random weights is a setting anyway."""
        return "random" if self.config.weights == "random" else revision_of(self.config)

    def load(self) -> nn.Module:
        self.check(self.config)
        try:
            from vggt.models.vggt import VGGT  # optional, under its own licence
        except ImportError as error:
            raise EncoderError(
                f"Vggt needs the package vggt ({error}): pip install --no-deps '{PACKAGE}' (its own licence)"
            ) from error
        with drawn_from(self.config.seed):
            model: Any = VGGT(embed_dim=self.config.embed_dim)
        if self.config.weights == "pretrained":
            file = single_file(open_source(self.config))
            try:
                model.load_state_dict(load_file(file))
            except RuntimeError as error:
                why = " ".join(str(error).split())[:200]
                raise EncoderError(f"path={self.config.path} does not fit VGGT: {why}") from error
        # The heads (cameras, depth, points, tracks) are not kept.
        aggregator: nn.Module = model.aggregator.to(getattr(torch, self.config.dtype))
        return aggregator

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        # The aggregator normalises by itself: its input is in [0, 1], batch first.
        inputs = pixels.to(getattr(torch, self.config.dtype)).unsqueeze(0)
        outputs, patch_start = module(inputs)
        tokens = outputs[-1][0, :, patch_start:].transpose(1, 2)
        rows, cols = (int(side) // self.multiple for side in pixels.shape[-2:])
        maps: Tensor = tokens.unflatten(-1, (rows, cols)).contiguous()
        return maps
