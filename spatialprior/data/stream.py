"""The clips of every optimiser step, as a function of the step alone.

So the order does not depend on workers, processes or micro-batches, and a run that resumes at step k
sees exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True)
class MicroBatching:
    """How the clips that a process has of a step are grouped for one forward pass each.

    Attributes:
        clips: At most so many.
        tokens: At most so many tokens, padding included (a single longer clip goes alone); 0 for no such limit.
    """

    clips: int
    tokens: int = 0

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places of the clips of each group: longest first, so that neighbours need little padding."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        groups: list[list[int]] = []
        for place in order:
            last = groups[-1] if groups else []
            fits = 0 < len(last) < self.clips
            if fits and (len(last) + 1) * lengths[last[0]] <= self.tokens:
                last.append(place)
            else:
                groups.append([place])
        return groups


class _MicroBatches(Dataset[list[ClipBatch]]):
    """The groups of (step, part): with a limit on tokens a step is one part, else each group is."""

    def __init__(
        self, stream: ClipStream, encoder: Encoder, size: MicroBatching, rank: int, ranks: int
    ) -> None:
        self.stream, self.encoder = stream, encoder
        self.size, self.rank, self.ranks = size, rank, ranks

    @property
    def parts(self) -> int:
        own = self.stream.clips_per_step // self.ranks
        return 1 if self.size.tokens else -(-own // self.size.clips)

    def __getitem__(self, key: tuple[int, int]) -> list[ClipBatch]:
        step, part = key
        total = self.stream.clips_per_step
        # The places rotate, so that no process gets the same source of a mixture in every step.
        first = (self.rank + step) % self.ranks
        own = range(step * total + first, (step + 1) * total, self.ranks)
        if not self.size.tokens:
            own = own[part * self.size.clips : (part + 1) * self.size.clips]
        clips = [self.stream.clip(i) for i in own]
        groups = [list(range(len(clips)))]
        if self.size.tokens:
            groups = self.size.groups([self.encoder.length(clip) for clip in clips])
        return [replace(self.encoder([clips[k] for k in group]), step=step) for group in groups]


def step_batches(
    stream: ClipStream,
    encoder: Encoder,
    *,
    first_step: int,
    steps: int,
    micro_batch: int,
    max_tokens: int = 0,
    num_workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[list[ClipBatch]]:
    """Encoded micro-batches of each optimiser step from ``first_step`` on.

    With ``max_tokens`` their number may differ between processes.

    Raises:
        ValueError: The global batch does not divide among the processes.
    """
    if stream.clips_per_step % ranks:
        raise ValueError(
            f"trainer.clips_per_step={stream.clips_per_step} does not divide among {ranks} processes"
        )
    dataset = _MicroBatches(stream, encoder, MicroBatching(micro_batch, max_tokens), rank, ranks)
    parts = dataset.parts
    keys = [(step, part) for step in range(first_step, steps) for part in range(parts)]
    loader: DataLoader[list[ClipBatch]] = DataLoader(
        dataset,
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
        yield [batch for _ in range(parts) for batch in next(iterator)]
