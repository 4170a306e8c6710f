"""Figures of the finished generator on held-out rooms, each with its interval over rooms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor
from tqdm import tqdm

from spatialprior.core.intervals import Interval, clustered_interval, paired_interval
from spatialprior.generator.clips import Clips
from spatialprior.generator.config import GeneratorConfig
from spatialprior.generator.flow import add_noise, velocity
from spatialprior.generator.gaussian import GaussianDenoiser
from spatialprior.generator.loop import generator_of
from spatialprior.generator.vae import decode, encode

Denoiser = Callable[[Tensor, float], Tensor]
"""Noisy latents ``N C f h w`` and their level t to a velocity."""

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PIXEL_LEVELS = (0.3, 0.5)


def record(interval: Interval) -> dict[str, Any]:
    """An interval for JSON, rounded to four digits."""
    bounds = interval.bounds
    return {
        "mean": round(interval.mean, 4),
        "ci95": None if bounds is None else [round(b, 4) for b in bounds],
        "n": interval.n,
        "rooms": interval.num_clusters,
    }


def psnr(made: Tensor, truth: Tensor) -> Tensor:
    """DB of each video ``N 3 F H W`` in [-1, 1], over all of its pixels."""
    error = (made - truth).pow(2).flatten(1).mean(1).clamp(min=1e-10)
    return 10 * torch.log10(4 / error)


def denoiser(model: WanTransformer3DModel, text_tokens: int, chunk: int = 64) -> Denoiser:
    """The transformer as a :data:`Denoiser`."""

    @torch.no_grad()
    def run(noisy: Tensor, level: float) -> Tensor:
        parts = [
            velocity(model, part, torch.full((len(part),), level), text_tokens)
            for part in noisy.split(chunk)
        ]
        return torch.cat(parts)

    return run


def zero(noisy: Tensor, level: float) -> Tensor:
    """The best constant: noise and normalised latents both average zero."""
    return torch.zeros_like(noisy)


def flow_error(model: Denoiser, clean: Tensor, level: float, seed: int) -> Tensor:
    """Mean squared error of the velocity of each item; equal seeds draw equal noise."""
    noise = torch.randn(clean.shape, generator=generator_of(seed, "evaluation"))
    noisy = add_noise(clean, noise, torch.full((len(clean),), level))
    return (model(noisy, level) - (noise - clean)).pow(2).flatten(1).mean(1)


def evaluate(
    vae: AutoencoderKLWan,
    trained: WanTransformer3DModel,
    untrained: WanTransformer3DModel,
    gaussian: GaussianDenoiser,
    clips: Clips,
    config: GeneratorConfig,
) -> dict[str, Any]:
    """All figures. ``clips`` are of the validation split; single frames are the first ones of its clips.

    Every clip is one item, and rooms are the clusters.
    """
    items = list(range(len(clips)))
    rooms = [clips.room(i) for i in items]
    videos, stills = clips.videos(items), clips.stills(items, [0] * len(items))
    latents = _chunked(lambda x: encode(vae, x), videos)
    single = latents[:, :, :1]
    models: dict[str, Denoiser] = {
        "trained": denoiser(trained, config.text_tokens),
        "untrained": denoiser(untrained, config.text_tokens),
        "zero": zero,
        "gaussian": gaussian.velocity,
    }

    def over_rooms(values: Tensor) -> dict[str, Any]:
        return record(clustered_interval(values.numpy(), rooms))

    flow: dict[str, Any] = {}
    for level in tqdm(LEVELS, "flow loss by noise level", leave=False):
        errors = {n: flow_error(m, single, level, config.seed) for n, m in models.items()}
        flow[str(level)] = {n: over_rooms(e) for n, e in errors.items()}
        flow[str(level)]["trained_minus_gaussian"] = record(
            paired_interval(errors["trained"].numpy(), errors["gaussian"].numpy(), rooms)
        )
    return {
        "reconstruction_psnr_db": {
            "single_frames": over_rooms(psnr(_chunked(lambda x: decode(vae, x), single), stills)),
            "clips": over_rooms(psnr(_chunked(lambda x: decode(vae, x), latents), videos)),
            "mean_colour": over_rooms(
                psnr(stills.mean((2, 3, 4), keepdim=True).expand_as(stills), stills)
            ),
        },
        "latents_of_single_frames": {
            "mean": round(float(single.mean()), 4),
            "std": round(float(single.std()), 4),
        },
        "flow_loss_single_frames": flow,
        "one_step_psnr_db": {
            str(level): one_step(vae, models, single, stills, level, config.seed, over_rooms)
            for level in PIXEL_LEVELS
        },
        "time": time_figures(vae, models["trained"], videos, latents, rooms, config.seed),
    }


def one_step(
    vae: AutoencoderKLWan,
    models: dict[str, Denoiser],
    clean: Tensor,
    truth: Tensor,
    level: float,
    seed: int,
    over_rooms: Callable[[Tensor], dict[str, Any]],
) -> dict[str, Any]:
    """PSNR of ``z_t - t v`` decoded, beside that of ``z_t`` itself decoded."""
    noise = torch.randn(clean.shape, generator=generator_of(seed, "evaluation"))
    noisy = add_noise(clean, noise, torch.full((len(clean),), level))
    found = {}
    for name in ("trained", "untrained", "gaussian"):
        guess = noisy - level * models[name](noisy, level)
        found[name] = over_rooms(psnr(_chunked(lambda x: decode(vae, x), guess), truth))
    found["noisy"] = over_rooms(psnr(_chunked(lambda x: decode(vae, x), noisy), truth))
    return found


def time_figures(
    vae: AutoencoderKLWan,
    trained: Denoiser,
    videos: Tensor,
    latents: Tensor,
    rooms: list[str],
    seed: int,
    level: float = 0.5,
) -> dict[str, Any]:
    """Does the denoiser use other frames? Losses of clips, and of three controls with the same noise.

    ``alone``: each latent frame as a video of its own. ``strangers``: a clip's latent frames come from three
    different rooms, each at its own place in time. ``shuffled``: the clip's frames after the first in another
    order before they are encoded (the autoencoder, too, has seen smooth motion only).
    """
    n, _, times = latents.shape[:3]
    step = n // times
    strangers = torch.stack([latents[:, :, k].roll(k * step, dims=0) for k in range(times)], dim=2)
    frames = videos.shape[2]
    order = [0, *range(2, frames, 2), *range(1, frames, 2)]  # 0 2 4 1 3
    shuffled = _chunked(lambda x: encode(vae, x), videos[:, :, order])
    noise = torch.randn(latents.shape, generator=generator_of(seed, "time"))
    whole = torch.full((n,), level)

    def loss(clean: Tensor, apart: bool = False) -> Tensor:
        noisy = add_noise(clean, noise, whole)
        if apart:
            made = torch.cat([trained(noisy[:, :, k : k + 1], level) for k in range(times)], 2)
        else:
            made = trained(noisy, level)
        return (made - (noise - clean)).pow(2).mean((1, 3, 4))  # n f

    real, alone, mixed, other = loss(latents), loss(latents, True), loss(strangers), loss(shuffled)
    first = slice(0, 1)

    def gap(a: Tensor, b: Tensor) -> dict[str, Any]:
        return record(paired_interval(a.mean(1).numpy(), b.mean(1).numpy(), rooms))

    return {
        "noise_level": level,
        "frame_order": order,
        "clip_loss": record(clustered_interval(real.mean(1).numpy(), rooms)),
        # Only the first latent frame is one that the model has seen alone.
        "first_frame_alone_minus_clip": gap(alone[:, first], real[:, first]),
        "first_frame_strangers_minus_clip": gap(mixed[:, first], real[:, first]),
        "strangers_minus_clip": gap(mixed, real),
        "shuffled_minus_clip": gap(other, real),
    }


def _chunked(function: Callable[[Tensor], Tensor], items: Tensor, chunk: int = 16) -> Tensor:
    return torch.cat([function(part) for part in items.split(chunk)])
