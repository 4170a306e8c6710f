"""The denoiser: Wan's transformer on latents, trained by rectified flow.

``z_t = (1 - t) z_0 + t eps``; the target is ``eps - z_0``; Wan's ``timestep`` is ``1000 t``: Wan 2.1's own
objective, the one that VEGA-3D's features assume.
"""

from __future__ import annotations

import copy

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from spatialprior.generator.config import GeneratorConfig, GeneratorError
from spatialprior.generator.loop import Losses, draw, generator_of

TIMESTEPS = 1000.0


def build_transformer(config: GeneratorConfig) -> WanTransformer3DModel:
    """Untrained, weights from the recipe's seed.

    Raises:
        GeneratorError: The class does not take the recipe's settings.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed + 1)
        try:
            return WanTransformer3DModel(**copy.deepcopy(config.transformer.model))
        except TypeError as error:
            raise GeneratorError(f"transformer.model: {error}") from error


def add_noise(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """``z_t`` of latents ``N C f h w``; ``level``: t of each item, ``N``."""
    t = level.view(-1, 1, 1, 1, 1)
    return (1 - t) * clean + t * noise


def velocity(
    model: WanTransformer3DModel, noisy: Tensor, level: Tensor, text_tokens: int
) -> Tensor:
    """The model's ``eps - z_0``, given no words (an all-zero text)."""
    text = noisy.new_zeros(len(noisy), text_tokens, model.config.text_dim)
    made: Tensor = model(
        hidden_states=noisy, timestep=TIMESTEPS * level, encoder_hidden_states=text
    ).sample
    return made


def flow_losses(
    model: WanTransformer3DModel, latents: Tensor, config: GeneratorConfig, step: int
) -> Losses:
    """Mean squared error of the velocity, t uniform. Even steps are of single frames.

    Args:
        model: The denoiser.
        latents: ``N C f h w``, normalised, of all training clips.
        config: The recipe.
        step: 0-based; decides items, noise and levels.
    """
    generator = generator_of(config.seed, "transformer", step)
    stage = config.transformer
    single = step % 2 == 0
    chosen = draw(stage.single_frames if single else stage.clips, len(latents), generator)
    clean = latents[chosen][:, :, :1] if single else latents[chosen]
    noise = torch.randn(clean.shape, generator=generator)
    level = torch.rand(len(clean), generator=generator)
    made = velocity(model, add_noise(clean, noise, level), level, config.text_tokens)
    loss = (made - (noise - clean)).pow(2).mean()
    return {"loss": loss}
