"""Stable Video Diffusion: what enters the middle block of its U-Net, some frames of a clip together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from spatialprior.features.diffusion import DiffusionConfig
from spatialprior.features.early_exit import stop_at
from spatialprior.features.encoder import EncoderConfig, noise_like
from spatialprior.features.stable_diffusion import UNetEncoder


@dataclass
class StableVideoDiffusionConfig(DiffusionConfig):
    """What a recipe may set; the defaults are VEGA-3D's (``vega3d.md`` section 2) but for the noise.

    Attributes:
        sigma: Standard deviation of the noise on latents of about unit variance, above 0. The default is
            that of SD2.1 at timestep 250; upstream's nearest timestep most likely meant 700 (section 8,
            trap 4).
        chunk: Frames denoised together; a frame's features depend on these alone.
        fps: Frames a second; the model is told one less, as in the stock pipeline.
        motion: Motion bucket.
        noise_aug: Noise that the model is told is on the conditioning frames. They are clean, as upstream's.
    """

    path: str = "stabilityai/stable-video-diffusion-img2vid"
    size: tuple[int, int] = (896, 896)
    sigma: float = 0.7
    chunk: int = 8
    fps: int = 7
    motion: int = 127
    noise_aug: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0 or self.chunk < 1:
            raise ValueError(f"sigma={self.sigma}, chunk={self.chunk}: must be positive")


class StableVideoDiffusion(UNetEncoder):
    """SVD image-to-video (``vega3d.md`` section 2), without guidance.

    Noisy latents are preconditioned as by the stock ``EulerDiscreteScheduler``: scaled by
    ``1 / sqrt(sigma^2 + 1)``, timestep ``ln(sigma) / 4``. Beside them, unscaled as in the stock pipeline,
    lie the clean latents of each frame. Cross-attention sees CLIP's embedding of the chunk's first frame,
    resized with antialiased bicubic interpolation (the stock pipeline's own Gaussian blur differs a little).
    """

    Config: ClassVar[type[EncoderConfig]] = StableVideoDiffusionConfig
    config: StableVideoDiffusionConfig
    joint: ClassVar[bool] = True
    components: ClassVar[dict[str, Any]] = {
        "unet": UNetSpatioTemporalConditionModel,
        "vae": AutoencoderKLTemporalDecoder,
        "image_encoder": CLIPVisionModelWithProjection,
    }
    example: ClassVar[str] = "stabilityai/stable-video-diffusion-img2vid"

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        size = self.config.chunk
        return torch.cat(
            [
                self._encode_chunk(module, pixels[at : at + size], seeds[at : at + size])
                for at in range(0, len(pixels), size)
            ]
        )

    def _encode_chunk(self, model: Any, pixels: Tensor, seeds: list[int]) -> Tensor:
        """Maps ``F C h w`` of frames ``F 3 H W``."""
        config = self.config
        clean = self.vae_mode(model.vae, pixels)
        scaled = clean * model.vae.config.scaling_factor
        noisy = scaled + config.sigma * noise_like(scaled, seeds)
        sample = torch.cat([noisy / math.sqrt(config.sigma**2 + 1), clean], dim=1)
        ids = pixels.new_tensor([[config.fps - 1, config.motion, config.noise_aug]])
        with stop_at(model.unet.down_blocks[-1], "output", config.early_exit) as found:
            model.unet(
                sample[None].to(self.dtype),
                pixels.new_tensor(math.log(config.sigma) / 4),
                encoder_hidden_states=self._image_embedding(model.image_encoder, pixels[:1]),
                added_time_ids=ids.to(self.dtype),
                return_dict=False,
            )
        return found.value

    def _image_embedding(self, encoder: Any, pixels: Tensor) -> Tensor:
        """``1 1 C`` of one frame in [0, 1]."""
        side = int(encoder.config.image_size)
        resized = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            pixels.new_tensor(values)[:, None, None]
            for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )
        found: Tensor = encoder(((resized - mean) / std).to(self.dtype)).image_embeds
        return found[:, None]
