"""Train, evaluate and write the embedded generator: ``python -m spatialprior.generator --help``."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from spatialprior.generator import package
from spatialprior.generator.clips import Clips
from spatialprior.generator.config import GeneratorConfig, GeneratorError, load_config
from spatialprior.generator.evaluate import evaluate
from spatialprior.generator.flow import build_transformer, flow_losses
from spatialprior.generator.gaussian import GaussianDenoiser
from spatialprior.generator.loop import Losses, train
from spatialprior.generator.picture import draw_picture
from spatialprior.generator.vae import (
    all_latents,
    build_vae,
    latent_scale,
    measure_latents,
    vae_losses,
)

RECIPE = Path(__file__).parent / "nano.yaml"


def fingerprint(config: GeneratorConfig, stage: str) -> str:
    """Hash of the settings that a stage's weights depend on."""
    values = dataclasses.asdict(config)
    for name in ("cache_dir", "val_rooms"):
        values["clips"].pop(name)
    if stage == "vae":
        values.pop("transformer")
        values.pop("text_tokens")
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def make(
    config: GeneratorConfig, work: Path, stop_after: int | None = None
) -> tuple[AutoencoderKLWan, WanTransformer3DModel, GaussianDenoiser] | None:
    """Train both networks (or go on where checkpoints in ``work`` end), as they will be stored.

    Args:
        config: The recipe.
        work: Folder of checkpoints and logs.
        stop_after: End each stage once this many of its steps are done; ``None`` is then returned.
    """
    clips = Clips(config.clips, "train")

    def trained(name: str, model: nn.Module, losses: Callable[[int], Losses]) -> bool:
        mark = fingerprint(config, name)
        if not train(model, losses, getattr(config, name), work, name, mark, stop_after):
            return False
        model.requires_grad_(False).eval()
        package.round_weights(model)
        return True

    vae = build_vae(config)
    if not trained("vae", vae, lambda step: vae_losses(vae, clips, config, step)):
        return None
    raw = all_latents(vae, clips)
    measure_latents(vae, raw)
    mean, std = latent_scale(vae)
    latents = (raw - mean) / std
    transformer = build_transformer(config)

    def denoising(step: int) -> Losses:
        return flow_losses(transformer, latents, config, step)

    if not trained("transformer", transformer, denoising):
        return None
    return vae, transformer, GaussianDenoiser(latents[:, :, :1])


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m spatialprior.generator",
        description="Train the embedded video generator on the ray-cast rooms; resumes where it was stopped.",
    )
    parser.add_argument(
        "--recipe", type=Path, default=RECIPE, help="settings (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument("--out", type=Path, required=True, help="write the generator here")
    parser.add_argument("--picture", type=Path, help="write a picture of denoising here (PNG)")
    parser.add_argument(
        "--stop-after", type=int, metavar="STEPS", help="end the current stage here"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        config = load_config(chosen.recipe)
        made = make(config, chosen.work, chosen.stop_after)
    except GeneratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if made is None:
        print(f"stopped after {chosen.stop_after} steps; the same command without it goes on")
        return 0
    vae, transformer, gaussian = made
    package.write(chosen.out, vae, transformer)
    held_out, untrained = Clips(config.clips, "val"), build_transformer(config).eval()
    figures = evaluate(vae, transformer, untrained, gaussian, held_out, config)
    (chosen.out / "generator.json").write_text(
        json.dumps(_record(config, figures), indent=1) + "\n"
    )
    if chosen.picture is not None:
        draw_picture(chosen.picture, vae, transformer, untrained, held_out, config.text_tokens)
    print(f"{chosen.out}: {package.size_of(chosen.out) / 1e6:.2f} MB")
    return 0


def _record(config: GeneratorConfig, figures: dict[str, Any]) -> dict[str, Any]:
    """What ``generator.json`` says: how it was made, and how good it is."""
    recipe = dataclasses.asdict(config)
    recipe["clips"].pop("cache_dir")
    return {
        "made_by": "python -m spatialprior.generator",
        "stored_dtype": str(package.DTYPE).removeprefix("torch."),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "recipe": recipe,
        "figures": {"split": "val", **figures},
    }


if __name__ == "__main__":
    sys.exit(main())
