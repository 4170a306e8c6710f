"""The clips of every optimiser step, as a function of the step alone.

So the order does not depend on workers, processes or micro-batches, and a run that resumes at step k
sees exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset

from spatialprior.core.backbone import Encoder
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.data.dataset import ClipDataset


@dataclass(frozen=True)
class ClipStream:
    """Geometry clips, interleaved with instruction clips where a run has them.

    Attributes:
        geometry: Clips with (usually) depth and pose.
        instruction: Clips with questions, or ``None``.
        clips_per_step: Clips of one optimiser step.
        instruction_share: Share of them that are instruction clips, spread evenly over the steps.
    """

    geometry: ClipDataset
    instruction: ClipDataset | None
    clips_per_step: int
    instruction_share: float = 0.0

    def clip(self, position: int) -> MultiViewClip:
        """Clip number ``position`` of the whole run.

        Within a step geometry comes first: clips of a kind are alike in length, so they share micro-batches.
        """
        if self.instruction is None:
            return self.geometry.clip(position)
        step, place = divmod(position, self.clips_per_step)
        before, after = (
            int((step + i) * self.clips_per_step * self.instruction_share) for i in (0, 1)
        )
        num_geometry = self.clips_per_step - (after - before)
        if place < num_geometry:
            return self.geometry.clip(step * self.clips_per_step - before + place)
        return self.instruction.clip(before + place - num_geometry)


class _MicroBatches(Dataset[ClipBatch]):
    def __init__(
        self, stream: ClipStream, encoder: Encoder, size: int, rank: int, ranks: int
    ) -> None:
        self.stream, self.encoder = stream, encoder
        self.size, self.rank, self.ranks = size, rank, ranks

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch:
        step, micro = key
        total = self.stream.clips_per_step
        # The places rotate, so that no process gets the same source of a mixture in every step.
        first = (self.rank + step) % self.ranks
        own = range(step * total + first, (step + 1) * total, self.ranks)
        mine = own[micro * self.size : (micro + 1) * self.size]
        return replace(self.encoder([self.stream.clip(i) for i in mine]), step=step)


def step_batches(
    stream: ClipStream,
    encoder: Encoder,
    *,
    first_step: int,
    steps: int,
    micro_batch: int,
    num_workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[list[ClipBatch]]:
    """Encoded micro-batches of each optimiser step from ``first_step`` on.

    Raises:
        ValueError: The global batch does not divide among the processes.
    """
    if stream.clips_per_step % ranks:
        raise ValueError(
            f"trainer.clips_per_step={stream.clips_per_step} does not divide among {ranks} processes"
        )
    micros = -(-(stream.clips_per_step // ranks) // micro_batch)
    keys = [(step, micro) for step in range(first_step, steps) for micro in range(micros)]
    loader: DataLoader[ClipBatch] = DataLoader(
        _MicroBatches(stream, encoder, micro_batch, rank, ranks),
        sampler=keys,
        # Its own generator: starting a loader draws a seed, which must not disturb the run's random state
        # (a resumed run starts its loader later than an uninterrupted one).
        generator=torch.Generator(),
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None,
        prefetch_factor=2 if num_workers else None,
    )
    iterator = iter(loader)
    for _ in range(first_step, steps):
        yield [next(iterator) for _ in range(micros)]
