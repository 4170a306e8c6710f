"""What is fused into the visual tokens: the encoder's features, or what a control puts in their place.

The controls have exactly the prior's modules and differ only in what these are fed, so that a gain over them is
not one of more parameters (a control that the paper lacks).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
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

_KEPT = 4
"""Clips of earlier batches that other_scene remembers."""


def noise(batch: ClipBatch, channels: int, seed: int) -> Tensor:
    """``B V N C`` standard normal, a function of a frame's pixels, ``seed`` and its number of cells alone."""
    layout = batch.token_map
    found = torch.zeros(*layout.valid.shape, channels)
    for b, clip in enumerate(batch.clips):
        for v, frame in enumerate(layout.frames(b).tolist()):
            generator = torch.Generator().manual_seed(frame_seed(clip.images[frame], seed))
            # Not N, the cells of the batch's largest view: with the length, torch changes the values too.
            cells = int(layout.grid[b, v].prod())
            found[b, v, :cells] = torch.randn(cells, channels, generator=generator)
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


class OtherSceneError(ValueError):
    """No clip of another scene is at hand. The message is one line."""


class OtherScene:
    """Hands out features of another scene, each view those of a view with the same grid of tokens.

    A view gets those of the next clip of the batch (behind the last comes the first) that is of another scene
    and has such a view: the one at the same place, or else its like views take turns. Only where the batch has
    none does it get those of an earlier batch, the latest first.

    A batch with two scenes of like views is thus a function of itself alone. What remains: a scoring that is
    resumed forms its batches of the questions that are left, so that a clip may get another donor than in a
    scoring without a break; and it begins without earlier batches, so that its first needs two scenes.
    """

    def __init__(self) -> None:
        self._kept: tuple[_Donor, ...] = ()

    def __call__(
        self,
        features: Tensor,
        seen: Tensor,
        clips: tuple[MultiViewClip, ...],
        grid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features ``B V N C`` and mask ``B V N`` of other clips.

        Args:
            features: ``B V N C``, the clips' own.
            seen: ``B V N`` bool, which tokens have one.
            clips: The batch's.
            grid: ``B V 2`` long, ``(rows, cols)`` of each view, 0 for an absent one. Without it, two views are
                taken to have the same where their frames have the same size, and as many tokens a feature.

        Raises:
            ValueError: Neither the batch nor one before it has a view of another scene with the same grid.
        """
        donors = [
            _Donor(clip.source_id, grids, features[b], seen[b])
            for b, (clip, grids) in enumerate(zip(clips, _grids(clips, seen, grid), strict=True))
        ]
        found, covered = torch.zeros_like(features), torch.zeros_like(seen)
        for b, own in enumerate(donors):
            others = [*donors[b + 1 :], *donors[:b], *self._kept]
            for v, wanted in own.grids.items():
                given = next((d.view(v, wanted) for d in others if d.has(own.source, wanted)), None)
                if given is None:
                    raise OtherSceneError(
                        f"at_inference=other_scene: clip {clips[b].clip_id} meets no view of another scene "
                        "with the grid of its own; it needs clips of two scenes with views of one size: raise "
                        "eval.batch, or score more clips (of a resumed scoring remove replies.jsonl)"
                    )
                cells = min(found.shape[2], len(given[0]))
                found[b, v, :cells], covered[b, v, :cells] = given[0][:cells], given[1][:cells]
        for donor in donors[-_KEPT:]:
            if donor.grids:
                rest = (old for old in self._kept if not old.is_like(donor))
                self._kept = (donor.copy(), *rest)[:_KEPT]
        return found, covered & seen


@dataclass(frozen=True)
class _Donor:
    """A clip whose features may be handed out.

    Attributes:
        source: Its scene.
        grids: View -> what tells its grid from others.
        features, seen: ``V N C`` and ``V N``.
    """

    source: str
    grids: dict[int, tuple[int, ...]]
    features: Tensor
    seen: Tensor

    def has(self, source: str, grid: tuple[int, ...]) -> bool:
        """Whether it can give a view of ``grid`` to a clip of the scene ``source``."""
        return self.source != source and grid in self.grids.values()

    def view(self, place: int, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """``N C`` and ``N`` of its view for the place ``place``."""
        fits = [v for v, own in self.grids.items() if own == grid]
        chosen = place if place in fits else fits[place % len(fits)]
        return self.features[chosen], self.seen[chosen]

    def is_like(self, other: _Donor) -> bool:
        return self.source == other.source and set(self.grids.values()) == set(other.grids.values())

    def copy(self) -> _Donor:
        return replace(self, features=self.features.clone(), seen=self.seen.clone())


def _grids(
    clips: tuple[MultiViewClip, ...], seen: Tensor, grid: Tensor | None
) -> list[dict[int, tuple[int, ...]]]:
    """For each clip: view -> its grid, or what stands for it."""
    if grid is not None:
        return [
            {v: tuple(cells) for v, cells in enumerate(views) if min(cells)}
            for views in grid.tolist()
        ]
    return [
        {v: (*clip.image_sizes[v], count) for v, count in enumerate(counts) if count}
        for clip, counts in zip(clips, seen.sum(-1).tolist(), strict=True)
    ]
