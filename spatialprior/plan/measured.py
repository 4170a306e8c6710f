"""What a real step takes, by means other than the plan's: torch's flop counter, the allocator's record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from spatialprior.core.batch import ClipBatch
from spatialprior.core.terms import total_loss
from spatialprior.model import SpatialModel


@dataclass(frozen=True)
class Measured:
    """One optimiser step on the CPU.

    Attributes:
        flops: Forward and backward of all micro-batches, by ``FlopCounterMode``.
        step_bytes: What the allocator handed out within the step, at the fullest moment.
        state_bytes: Weights and moments, and the largest batch.
    """

    flops: float
    step_bytes: float
    state_bytes: float

    @property
    def memory(self) -> float:
        return self.step_bytes + self.state_bytes


def measure_step(
    model: SpatialModel, optimizer: Optimizer, micro_batches: Sequence[ClipBatch]
) -> Measured:
    """Run two steps of real training and measure the second, which finds AdamW's moments in place."""

    def step() -> None:
        contexts = [model.prepare(batch) for batch in micro_batches]
        counts: dict[str, float] = {}
        for batch, context in zip(micro_batches, contexts, strict=True):
            for name, n in model.counts(batch, context).items():
                counts[name] = counts.get(name, 0.0) + n
        for batch, context in zip(micro_batches, contexts, strict=True):
            if terms := model(batch, context):
                total_loss(terms, counts).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with FlopCounterMode(display=False) as counter:
        step()
    state = [t for entry in optimizer.state.values() for t in entry.values() if torch.is_tensor(t)]
    kept = sum(tensor.nbytes for tensor in (*model.parameters(), *state))
    used = [batch for batch in micro_batches if model.injectors or batch.has_labels]
    batch = max(sum(t.nbytes for t in (*b.inputs.values(), b.labels)) for b in used)
    return Measured(float(counter.get_total_flops()), _peak(record), float(kept + batch))


def _peak(record: profile) -> float:
    """Largest sum of allocations less frees, in the order in which they happened."""
    profiler: Any = record.profiler
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return float(peak)
