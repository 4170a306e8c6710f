"""Wan VACE: as the text-to-video encoder, with the frame as the control branch's condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLWan, WanVACETransformer3DModel
from torch import Tensor

from spatialprior.features.encoder import EncoderConfig, EncoderError
from spatialprior.features.wan_t2v import WanT2V, WanT2VConfig


@dataclass
class WanVaceConfig(WanT2VConfig):
    """As :class:`WanT2VConfig`."""

    path: str = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"


class WanVace(WanT2V):
    """Wan2.1-VACE (``vega3d.md`` section 2). The condition is made as the stock ``WanVACEPipeline`` makes it
    for a control video of one frame, the frame itself, with an all-ones mask and no reference image: latents of
    the inactive part (a video of zeros), of the reactive part (the frame), and the mask folded by the VAE's
    stride.

    Noisy input and condition have one latent frame each, so every kept token is the frame's own, with RoPE
    (upstream kept a padding half, section 8, trap 3). The feature is the main blocks' stream after ``layer``,
    the hint that is added there included, as in the original implementation.
    """

    Config: ClassVar[type[EncoderConfig]] = WanVaceConfig
    config: WanVaceConfig
    components: ClassVar[dict[str, Any]] = {
        "transformer": WanVACETransformer3DModel,
        "vae": AutoencoderKLWan,
    }
    nano: ClassVar[str | None] = None
    example: ClassVar[str] = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"

    def validate(self) -> None:
        super().validate()
        wanted = 2 * int(self.part("vae")["z_dim"]) + self.vae_stride**2
        found = int(self.part("transformer")["vace_in_channels"])
        if found != wanted:
            raise EncoderError(
                f"path={self.config.path}: the transformer takes conditions of {found} channels, and this VAE "
                f"makes {wanted} (two latents and the folded mask)"
            )

    def trim(self, models: dict[str, Any]) -> None:
        super().trim(models)
        transformer = models["transformer"]
        # All hints are made before the first block; those of later blocks would go unused.
        used = sum(at <= self.config.layer for at in transformer.config.vace_layers)
        transformer.vace_blocks = transformer.vace_blocks[:used]

    def conditions(self, model: Any, pixels: Tensor, clean: Tensor) -> dict[str, Tensor]:
        # One frame of zeros, whatever the frame: its latents are the same for the whole batch.
        inactive = self.latents(model.vae, torch.zeros_like(pixels[:1])).expand_as(clean)
        mask = clean.new_ones(len(clean), self.vae_stride**2, *clean.shape[2:])
        return {"control_hidden_states": torch.cat([inactive, clean, mask], dim=1).to(self.dtype)}
