"""What is fused into the visual tokens: the encoder's features, or what a control puts in their place.

The controls have exactly the prior's modules and differ only in what these are fed, so that a gain over them is
not one of more parameters (a control that the paper lacks).
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.features.encoder import frame_seed

Source = Literal["encoder", "noise", "own_vision"]
"""``encoder``: its features. ``noise``: standard normal, drawn once for each frame and cell. ``own_vision``:
the backbone's visual tokens themselves, through a fixed random projection."""

Substitute = Literal["none", "zero", "shuffled", "other_scene"]
"""At inference, in place of the features: nothing else, zeros, the same view's cells in another order, or those
of a clip of another scene."""


def noise(batch: ClipBatch, channels: int, seed: int) -> Tensor:
    """``B V N C`` standard normal, a function of each frame's pixels and ``seed`` alone."""
    layout = batch.token_map
    found = torch.zeros(*layout.valid.shape, channels)
    for b, clip in enumerate(batch.clips):
        for v, frame in enumerate(layout.frames(b).tolist()):
            generator = torch.Generator().manual_seed(frame_seed(clip.images[frame], seed))
            found[b, v] = torch.randn(layout.index.shape[-1], channels, generator=generator)
    return found.to(layout.index.device)


def projection(width: int, channels: int, seed: int) -> Tensor:
    """``width channels``: fixed random directions, orthonormal as far as there is room."""
    generator = torch.Generator().manual_seed(seed)
    side = max(width, channels)
    q, _ = torch.linalg.qr(torch.randn(side, side, generator=generator))
    directions: Tensor = q[:width, :channels] * (side / width) ** 0.5
    return directions.contiguous()


def shuffled(features: Tensor, valid: Tensor, clips: tuple[MultiViewClip, ...]) -> Tensor:
    """``B V N C`` with the cells of every view in a random order, drawn from the clip's id."""
    found = features.clone()
    for b, clip in enumerate(clips):
        for v in range(features.shape[1]):
            cells = valid[b, v].nonzero().squeeze(1)
            name = hashlib.blake2b(f"{clip.clip_id}/{v}".encode(), digest_size=7).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(name, "little"))
            order = torch.randperm(len(cells), generator=generator)
            found[b, v, cells] = features[b, v, cells[order.to(cells.device)]]
    return found


class OtherScene:
    """Hands out features of another scene: of the next such clip of the batch, or of the last one before it."""

    def __init__(self) -> None:
        self._kept: tuple[str, Tensor, Tensor] | None = None

    def __call__(
        self, features: Tensor, seen: Tensor, clips: tuple[MultiViewClip, ...]
    ) -> tuple[Tensor, Tensor]:
        """Features ``B V N C`` and mask ``B V N`` of other clips, for tokens of like grids.

        Raises:
            ValueError: The batch has one scene only, and none came before it.
        """
        sources = [clip.source_id for clip in clips]
        found, covered = torch.zeros_like(features), torch.zeros_like(seen)
        for b, source in enumerate(sources):
            around = [*range(b + 1, len(sources)), *range(b)]
            other = next((i for i in around if sources[i] != source), None)
            if other is not None:
                found[b], covered[b] = features[other], seen[other]
            elif self._kept is not None and self._kept[0] != source:
                _fill(found[b], self._kept[1])
                _fill(covered[b], self._kept[2])
            else:
                raise ValueError(
                    "at_inference=other_scene needs clips of two scenes: raise eval.batch, or score more clips"
                )
        self._kept = (sources[-1], features[-1].clone(), seen[-1].clone())
        return found, covered & seen


def _fill(into: Tensor, given: Tensor) -> None:
    views, cells = (min(into.shape[i], given.shape[i]) for i in (0, 1))
    into[:views, :cells] = given[:views, :cells]
