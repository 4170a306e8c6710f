"""What encoders on stock diffusers classes share: components, checks before any weight, identity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spatialprior.features.components import ComponentFolder
from spatialprior.features.digest import digest
from spatialprior.features.encoder import EncoderConfig, EncoderError, FeatureEncoder
from spatialprior.features.fit import fitted_size
from spatialprior.features.prompt import check_prompt, empty_prompt


@dataclass
class DiffusionConfig(EncoderConfig):
    """What encoders that stop inside of a denoiser add.

    Attributes:
        early_exit: Drop the part of the denoiser after the feature. ``False`` runs and keeps all of it; the
            features are the same.
    """

    early_exit: bool = True


@dataclass
class PromptConfig(DiffusionConfig):
    """What encoders with a text input add.

    Attributes:
        prompt_embedding: safetensors file with one tensor ``1 L C``, the empty prompt's embedding; ``None``
            computes it with the folder's own text encoder (kept in the cache folder).
    """

    prompt_embedding: str | None = None


class Parts(nn.Module):
    """Frozen components, and the embedding of the empty prompt, under one roof.

    Args:
        models: Name -> component.
        prompt: ``1 L C``, or ``None``.
    """

    def __init__(self, models: Mapping[str, nn.Module], prompt: Tensor | None = None) -> None:
        super().__init__()
        for name, model in models.items():
            self.add_module(name, model)
        if prompt is not None:
            self.register_buffer("prompt", prompt)


class DiffusionEncoder(FeatureEncoder):
    """Base of the encoders on diffusers classes. Subclasses set the class attributes, ``channels``,
    ``multiple`` and ``encode_pixels``; ``trim`` and ``validate`` where they have a denoiser.

    Without a text encoder in the folder, and with random weights, the empty prompt is eight zero vectors.

    Attributes:
        components: Name of the subfolder -> stock class.
        nano: Name of the embedded model, or ``None``.
        example: Hub id of the published model.
        text: ``(class of text_encoder, tokens, whether padding becomes zeros)``, or ``None``.
        prompt_width: ``(component, setting)`` that gives the prompt's channels.
    """

    components: ClassVar[Mapping[str, Any]]
    nano: ClassVar[str | None] = None
    example: ClassVar[str]
    text: ClassVar[tuple[Any, int, bool] | None] = None
    prompt_width: ClassVar[tuple[str, str]]

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Side of a cell of the map in pixels of the input, from the components' configurations."""

    @cached_property
    def folder(self) -> ComponentFolder:
        return ComponentFolder(self.config, self.nano, self.example)

    def part(self, name: str) -> dict[str, Any]:
        """Configuration of a component."""
        return self.folder.settings(name, self.components[name])

    @property
    def dtype(self) -> torch.dtype:
        found = getattr(torch, self.config.dtype)
        assert isinstance(found, torch.dtype)
        return found

    @classmethod
    def check(cls, config: EncoderConfig) -> None:
        cls(config).validate()

    def validate(self) -> None:
        """Raise :class:`EncoderError` for what is wrong, reading configurations only."""
        for name in self.components:
            self.part(name)
            if self.config.weights == "pretrained":
                self.folder.check_weights(name)
        try:
            fitted_size(self.config.size, self.config.size, self.config.fit, self.multiple)
        except ValueError as error:
            raise EncoderError(str(error)) from error
        if (chosen := self._chosen_prompt()) is not None:
            check_prompt(chosen, self._prompt_channels())

    @cached_property
    def revision(self) -> str:
        """Commit or digest of all components that are used, and of the prompt's file where one is set."""
        names = list(self.components)
        if self._computes_prompt():
            names += ["text_encoder", "tokenizer"]
        found = self.folder.revision(names)
        if (chosen := self._chosen_prompt()) is not None:
            found += "+" + digest(chosen.parent, [chosen])[:16]
        return found

    def settings(self) -> dict[str, Any]:
        # Neither changes the features: the prompt's content is in the revision.
        left_out = ("early_exit", "prompt_embedding")
        return {key: value for key, value in super().settings().items() if key not in left_out}

    def load(self) -> nn.Module:
        self.validate()
        models = {name: self.folder.build(name, kind) for name, kind in self.components.items()}
        if isinstance(self.config, DiffusionConfig) and self.config.early_exit:
            self.trim(models)
        return Parts(models, self._prompt())

    def trim(self, models: dict[str, Any]) -> None:
        """Drop what would run after the feature."""

    # --- the empty prompt -----------------------------------------------------------------

    def _prompt(self) -> Tensor | None:
        if self.text is None:
            return None
        chosen = self._chosen_prompt()
        if chosen is None and not self._computes_prompt():
            return torch.zeros(1, 8, self._prompt_channels(), dtype=self.dtype)
        return empty_prompt(self.folder, chosen, *self.text).to(self.dtype)

    def _chosen_prompt(self) -> Path | None:
        chosen = getattr(self.config, "prompt_embedding", None)
        return None if chosen is None else Path(chosen).expanduser()

    def _computes_prompt(self) -> bool:
        return (
            self.text is not None
            and self._chosen_prompt() is None
            and self.config.weights == "pretrained"
            and self.folder.has("text_encoder")
        )

    def _prompt_channels(self) -> int:
        name, setting = self.prompt_width
        return int(self.part(name)[setting])


def to_signed(pixels: Tensor) -> Tensor:
    """[0, 1] to [-1, 1], what every VAE here was trained on."""
    return pixels * 2 - 1
