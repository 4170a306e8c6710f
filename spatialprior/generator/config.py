"""Settings of the embedded generator: a YAML file onto dataclasses, strictly."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spatialprior.registry import suggest

D = TypeVar("D")


class GeneratorError(ValueError):
    """The generator cannot be made as asked. The message is one line."""


@dataclass
class ClipsConfig:
    """Clips of slow motion through the embedded rooms.

    Attributes:
        image_size: Height and width of a frame, pixels.
        render_scale: Frames are rendered this many times larger and scaled down as an encoder does it.
        frames: Frames of a clip; Wan takes 1 more than a multiple of its temporal stride.
        clips_per_room: Clip k starts at the room's path frame k.
        span: Share of the way to the next path frame that the camera goes in one clip.
        train_rooms, val_rooms: Rooms of each split (seeds as in :mod:`spatialprior.data.rooms`).
        cache_dir: Where rendered clips are kept; as for the rooms.
    """

    image_size: int = 64
    render_scale: int = 2
    frames: int = 5
    clips_per_room: int = 4
    span: float = 0.5
    train_rooms: int = 800
    val_rooms: int = 64
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "render_scale", "clips_per_room", "train_rooms", "val_rooms"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.frames < 3 or self.frames % 2 == 0:
            raise ValueError(f"frames={self.frames}: must be odd and at least 3")
        if not 0 < self.span <= 1:
            raise ValueError(f"span={self.span}: must be in (0, 1]")


@dataclass
class StageConfig:
    """One of the two networks and its optimisation (AdamW, linear warm-up, cosine to zero).

    Attributes:
        model: Keyword arguments of the diffusers class.
        steps: Optimiser steps; every other one is a batch of single frames, the others are of clips.
        single_frames: Items of a batch of single frames.
        clips: Items of a batch of clips.
        learning_rate: Peak.
        weight_decay: On matrices only.
        grad_clip: Largest gradient norm.
        checkpoint_every: Steps between checkpoints.
    """

    model: dict[str, Any] = field(default_factory=dict)
    steps: int = 1000
    single_frames: int = 10
    clips: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "single_frames", "clips", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: must be positive")


@dataclass
class GeneratorConfig:
    """Everything that the weights depend on.

    Attributes:
        seed: Of initial weights, batches and noise.
        clips: The data.
        vae: Autoencoder, ``AutoencoderKLWan``.
        transformer: Denoiser, ``WanTransformer3DModel``.
        kl_weight: Factor of the mean KL of a latent's entry, beside the L1 of a pixel in [-1, 1].
        gradient_weight: Factor of the L1 of differences between neighbouring pixels; grows from 0.
        text_tokens: Length of the all-zero text that the denoiser is given.
    """

    seed: int = 0
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    vae: StageConfig = field(default_factory=StageConfig)
    transformer: StageConfig = field(default_factory=StageConfig)
    kl_weight: float = 3e-4
    gradient_weight: float = 0.5
    text_tokens: int = 8


def load_config(path: Path) -> GeneratorConfig:
    """Read a recipe.

    Raises:
        GeneratorError: No such file, or a setting does not exist or does not fit.
    """
    if not path.is_file():
        raise GeneratorError(f"{path}: no such recipe")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise GeneratorError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    return _bind(GeneratorConfig, values, "")


def _bind(cls: type[D], values: object, prefix: str) -> D:
    hints = typing.get_type_hints(cls)
    if not isinstance(values, dict):
        raise GeneratorError(f"{prefix or 'recipe'}: expected settings, got {values!r}")
    kwargs: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise GeneratorError(f"unknown setting {prefix}{key}; {suggest(key, hints, prefix)}")
        wanted = hints[key]
        if dataclasses.is_dataclass(wanted):
            kwargs[key] = _bind(typing.cast(type[Any], wanted), value, f"{prefix}{key}.")
            continue
        if wanted is float and type(value) is int:
            value = float(value)
        kinds = typing.get_args(wanted) if wanted == (str | None) else ()
        if type(value) not in (kinds or (typing.get_origin(wanted) or wanted,)):
            name = getattr(wanted, "__name__", str(wanted))
            raise GeneratorError(f"{prefix}{key}={value!r}: expected {name}")
        kwargs[key] = value
    try:
        return cls(**kwargs)
    except GeneratorError:
        raise
    except ValueError as error:
        raise GeneratorError(f"{prefix}{error}") from error
