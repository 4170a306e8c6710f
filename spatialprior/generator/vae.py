"""The autoencoder: frames of 64 by 64 pixels to latents of 16 by 16, two frames after the first to one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from torch import Tensor, nn
from tqdm import tqdm

from spatialprior.generator.clips import Clips
from spatialprior.generator.config import GeneratorConfig, GeneratorError
from spatialprior.generator.loop import Losses, draw, generator_of

_FIRST_LOGVAR = -8.0
_LOGVAR_GAIN = 0.01
_RESIDUAL_GAIN = 0.3


def build_vae(config: GeneratorConfig) -> AutoencoderKLWan:
    """Untrained, weights from the recipe's seed, latents not normalised yet.

    Raises:
        GeneratorError: The class does not take the recipe's settings.
    """
    settings: dict[str, Any] = copy.deepcopy(config.vae.model)
    channels = settings.get("z_dim", 16)
    settings.setdefault("latents_mean", [0.0] * channels)
    settings.setdefault("latents_std", [1.0] * channels)
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        try:
            vae = AutoencoderKLWan(**settings)
        except TypeError as error:
            raise GeneratorError(f"vae.model: {error}") from error
        _initialise(vae, channels)
    return vae


def _initialise(vae: AutoencoderKLWan, channels: int) -> None:
    """Keep the variance of what passes, and begin with a narrow posterior.

    torch's own initial weights shrink the signal in every layer that has no norm behind it, and a posterior of
    deviation 1 drowns what is left: for some hundred steps the decoder then paints the mean colour alone.
    """
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                # In a single frame a causal convolution sees zeros at all but the last of its times.
                fan_in = module.in_channels * module.kernel_size[-1] ** 2
                nn.init.normal_(module.weight, std=fan_in**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in vae.modules():
            if isinstance(module, WanResidualBlock):
                module.conv2.weight.mul_(_RESIDUAL_GAIN)
        vae.decoder.conv_out.weight.mul_(_RESIDUAL_GAIN)
        vae.quant_conv.weight[channels:].mul_(_LOGVAR_GAIN)
        vae.quant_conv.bias[channels:] = _FIRST_LOGVAR


def vae_losses(vae: AutoencoderKLWan, clips: Clips, config: GeneratorConfig, step: int) -> Losses:
    """L1 of pixels and of their differences, and the KL of the latents. Even steps are of single frames."""
    generator = generator_of(config.seed, "vae", step)
    if step % 2 == 0:
        chosen = draw(config.vae.single_frames, len(clips), generator)
        videos = clips.stills(chosen, draw(len(chosen), config.clips.frames, generator))
    else:
        videos = clips.videos(draw(config.vae.clips, len(clips), generator))
    posterior = vae.encode(videos).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    made = vae.decode(posterior.mean + posterior.std * noise).sample
    pixels = (made - videos).abs().mean()
    gradient = sum(((made - videos).diff(dim=dim)).abs().mean() for dim in (-1, -2))
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    # Late: at first the surest way to a small gradient loss is to paint nothing.
    ramp = min(1.0, step / config.vae.steps)
    loss = pixels + ramp * config.gradient_weight * gradient + config.kl_weight * kl
    return {"loss": loss, "l1": pixels, "gradient": torch.as_tensor(gradient), "kl": kl}


@torch.no_grad()
def encode(vae: AutoencoderKLWan, videos: Tensor) -> Tensor:
    """Normalised latents ``N C f h w``: the posterior's mode, less ``latents_mean``, over ``latents_std``."""
    mean, std = latent_scale(vae)
    return (vae.encode(videos).latent_dist.mode() - mean) / std


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Videos ``N 3 F H W`` in [-1, 1] from normalised latents."""
    mean, std = latent_scale(vae)
    return vae.decode(latents * std + mean).sample.clamp(-1, 1)


def latent_scale(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """``latents_mean`` and ``latents_std`` as ``1 C 1 1 1``."""
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


def all_latents(vae: AutoencoderKLWan, clips: Clips, chunk: int = 16) -> Tensor:
    """Latents of every clip, ``N C f h w``, normalised as ``vae`` says.

    The encoder is causal: the first latent frame of a clip is that of its first frame as a video of its own.
    """
    found = []
    for start in tqdm(range(0, len(clips), chunk), "encoding clips", leave=False):
        found.append(encode(vae, clips.videos(list(range(start, min(start + chunk, len(clips)))))))
    return torch.cat(found)


def measure_latents(vae: AutoencoderKLWan, latents: Tensor) -> None:
    """Write mean and standard deviation by channel into the config, single frames and clips counting alike.

    Args:
        vae: Its config still says mean 0 and deviation 1.
        latents: ``N C f h w`` of training clips, not normalised.
    """
    first = latents[:, :, :1]
    mean = (first.mean((0, 2, 3, 4)) + latents.mean((0, 2, 3, 4))) / 2
    square = (first.pow(2).mean((0, 2, 3, 4)) + latents.pow(2).mean((0, 2, 3, 4))) / 2
    std = (square - mean**2).sqrt()
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
