"""The contract of a feature encoder: frames in, feature maps with pixel coordinates out.

It is frozen and outside every state dict; its weights are loaded when first needed and never touched again.
"""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from spatialprior.features.fit import Fit, PatchGrid, fit_frames
from spatialprior.features.maps import Box, FeatureMaps


class EncoderError(ValueError):
    """A feature encoder cannot be had as the recipe asks. The message is one line."""


@dataclass
class EncoderConfig:
    """What a recipe may set on every encoder; kept with the run and in the cache's key.

    Attributes:
        path: ``nano`` (embedded, where the encoder has one), a local folder, or a hub id.
        revision: Commit of the hub id, or ``None``.
        weights: ``pretrained``, or ``random``: the same architecture, weights drawn from ``seed`` (a control).
        dtype: What weights and features are held in.
        size: ``(height, width)`` of the encoder's input, pixels.
        fit: How a frame becomes that input.
        pool: Average maps to ``(rows, cols)`` before they are kept; ``None`` keeps the encoder's own grid.
        seed: Of the noise, and of random weights.
        batch: Frames encoded at once, where frames are independent.
    """

    path: str = "nano"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    dtype: Literal["float32", "bfloat16"] = "float32"
    size: tuple[int, int] = (64, 64)
    fit: Fit = "aspect"
    pool: tuple[int, int] | None = None
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        if min(self.size) < 1 or (self.pool is not None and min(self.pool) < 1):
            raise ValueError(f"size={self.size}, pool={self.pool}: must be positive")
        if self.batch < 1:
            raise ValueError(f"batch={self.batch}: must be at least 1")


class FeatureEncoder(ABC):
    """Base class of every encoder, ours or a third party's.

    Not an ``nn.Module``: its weights are in no state dict, no optimiser and no checkpoint, and nothing that
    loads or initialises a model can reach them.

    Subclasses set the class attributes and write ``load`` and ``encode_pixels``.

    Attributes:
        joint: Whether a frame's features depend on the other frames of its clip.
    """

    Config: ClassVar[type[EncoderConfig]] = EncoderConfig
    joint: ClassVar[bool] = False

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self._module: nn.Module | None = None

    # --- what an encoder says -------------------------------------------------------------

    @classmethod  # noqa: B027 (not every encoder has something to check)
    def check(cls, config: EncoderConfig) -> None:
        """Raise :class:`EncoderError` for what is wrong with ``config``, without loading a weight."""

    @property
    def multiple(self) -> int:
        """Pixels that the input's sides must be multiples of; where it is fixed, a class attribute will do."""
        return 1

    @property
    @abstractmethod
    def channels(self) -> int:
        """C of the maps, from the model's configuration alone (no weight is loaded)."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """Identifies the weights without loading them (commit, digest of files); part of the cache's key."""

    @abstractmethod
    def load(self) -> nn.Module:
        """The frozen model, on the CPU, in the config's dtype. Everything that has weights hangs below it.

        Must not disturb the global random state.
        """

    @abstractmethod
    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        """Maps ``V C h w`` of an input ``V 3 H W`` in [0, 1].

        Args:
            module: What :meth:`load` returned, on ``pixels``' device.
            pixels: The fitted frames, float32. They and the model share a device.
            seeds: One for each frame, from its content and ``config.seed``: what noise is drawn from.
        """

    # --- what all share -------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        """The frozen model, loaded when first asked for: evaluation mode, no gradient."""
        if self._module is None:
            devices = list(range(torch.cuda.device_count()))
            with torch.random.fork_rng(devices):
                self._module = self.load().requires_grad_(False).eval()
        return self._module.to(self.device)

    def to(self, device: torch.device | str) -> FeatureEncoder:
        """Encode on ``device`` from now on."""
        self.device = torch.device(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> FeatureMaps:
        """Features of the frames of one clip.

        Args:
            images: ``V 3 H W`` uint8, the original frames.

        Returns:
            One map for each frame, on the encoder's device.
        """
        seeds = [frame_seed(image, self.config.seed) for image in images]
        size, box = self.config.size, (0.0, 0.0, 0.0, 0.0)
        maps = []
        step = len(images) if self.joint else self.config.batch
        with torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(images), step):
                chunk = images[start : start + step].to(self.device)
                pixels, box = fit_frames(chunk, size, self.config.fit, self.multiple)
                maps.append(self.encode_pixels(self.module, pixels, seeds[start : start + step]))
        found = FeatureMaps(torch.cat(maps), self.box_of(box))
        return found if self.config.pool is None else found.pooled(*self.config.pool)

    @property
    def patch_grid(self) -> PatchGrid:
        """Grid and box of the maps of a frame of any size, without encoding it.

        It holds where cells are ``multiple`` pixels wide and high, as in all encoders of this package; one
        with other cells must not be asked.

        Raises:
            EncoderError: The encoder has a ``box_of`` of its own, which this does not know.
        """
        if type(self).box_of is not FeatureEncoder.box_of:
            name = type(self).__name__
            raise EncoderError(f"{name} says what its maps show only once it has encoded a frame")
        # Recipes and manifests give lists.
        (height, width), pool = self.config.size, self.config.pool
        rows_cols = None if pool is None else (pool[0], pool[1])
        return PatchGrid((height, width), self.config.fit, self.multiple, rows_cols)

    def box_of(self, box: Box) -> Box:
        """Pixels under the map, where the model itself sees more or less than its input's ``box``."""
        return box

    def settings(self) -> dict[str, Any]:
        """Everything that the values of a map depend on beside the frames: the cache's key."""
        values = dataclasses.asdict(self.config)
        for name in ("path", "batch"):
            values.pop(name)
        cls = type(self)
        return {
            **values,
            "class": f"{cls.__module__}:{cls.__qualname__}",
            "weights_revision": self.revision,
        }

    def checksum(self) -> str:
        """SHA-256 of all weights; it must never change."""
        return weight_checksum(self.module)


def frame_seed(image: Tensor, seed: int) -> int:
    """A seed from a frame's pixels: the same frame gets the same noise in any clip, batch or process."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=7)
    digest.update(image.contiguous().cpu().numpy().data)
    return int.from_bytes(digest.digest(), "little")


def noise_like(latents: Tensor, seeds: list[int]) -> Tensor:
    """Standard normal noise ``N ...``, item n from ``seeds[n]``, the same on every device."""
    drawn = [
        torch.randn(
            latents.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float32
        )
        for seed in seeds
    ]
    return torch.stack(drawn).to(latents.device, latents.dtype)


def weight_checksum(module: nn.Module) -> str:
    """SHA-256 over the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
