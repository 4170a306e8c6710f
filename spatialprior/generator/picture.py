"""A picture of one-step denoising: what the model makes of noisy latents of held-out rooms."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from PIL import Image, ImageDraw
from torch import Tensor

from spatialprior.generator.clips import Clips
from spatialprior.generator.evaluate import denoiser
from spatialprior.generator.flow import add_noise
from spatialprior.generator.loop import generator_of
from spatialprior.generator.vae import decode, encode

_GAP, _MARGIN = 2, 76


def draw_picture(
    path: Path,
    vae: AutoencoderKLWan,
    trained: WanTransformer3DModel,
    untrained: WanTransformer3DModel,
    clips: Clips,
    text_tokens: int,
    count: int = 5,
    level: float = 0.5,
    seed: int = 0,
) -> None:
    """Rows: noisy, one step of the untrained and of the trained model, the autoencoder alone, the truth."""
    chosen = [i * len(clips) // count for i in range(count)]
    truth = clips.stills(chosen, [0] * count)
    clean = encode(vae, truth)
    noise = torch.randn(clean.shape, generator=generator_of(seed, "picture"))
    noisy = add_noise(clean, noise, torch.full((count,), level))
    guesses = [
        noisy - level * denoiser(model, text_tokens)(noisy, level) for model in (untrained, trained)
    ]
    rows = {
        f"noisy t={level}": decode(vae, noisy),
        "untrained": decode(vae, guesses[0]),
        "trained": decode(vae, guesses[1]),
        "VAE only": decode(vae, clean),
        "truth": truth,
    }
    side = truth.shape[-1]
    sheet = Image.new("RGB", (_MARGIN + count * (side + _GAP), len(rows) * (side + _GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, videos) in enumerate(rows.items()):
        top = row * (side + _GAP)
        pen.text((4, top + side // 2 - 6), name, fill="black")
        for column, video in enumerate(videos):
            sheet.paste(_image(video), (_MARGIN + column * (side + _GAP), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _image(video: Tensor) -> Image.Image:
    """First frame of ``3 F H W`` in [-1, 1]."""
    pixels = ((video[:, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
