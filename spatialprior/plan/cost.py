"""What one micro-batch costs: FLOPs by part and phase, memory by owner at the fullest moment."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from spatialprior.core.batch import IGNORE, ClipBatch
from spatialprior.core.terms import total_loss
from spatialprior.model import SpatialModel
from spatialprior.plan.fake_model import parts
from spatialprior.plan.meter import GRADIENTS, StepMeter
from spatialprior.plan.published import PlanError

BATCH, TARGETS = "batch", "targets"
"""Owners of what is there before the forward pass."""


@dataclass(frozen=True)
class Cost:
    """One micro-batch, forward and backward.

    Attributes:
        flops: ``(part, phase)`` -> FLOPs.
        memory: Owner -> bytes at the fullest moment: parts' activations, ``gradients``, ``batch`` and its
            priors' ``targets``; without weights and optimiser.
        tokens: Tokens of the decoder's sequence, padding included.
        visual_tokens: Those of them that are visual.
        labelled_tokens: Those of them that are scored.
    """

    flops: Mapping[tuple[str, str], float]
    memory: Mapping[str, float]
    tokens: float
    visual_tokens: float
    labelled_tokens: float

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())


def cost_of(
    model: SpatialModel, batch: ClipBatch, *, bf16: bool = False, accumulates: bool = False
) -> Cost:
    """Run one micro-batch of the real step and count. Weights may be real or fake.

    Args:
        model: In training mode; its gradients are dropped afterwards.
        batch: Encoded clips (real: what is fake are the weights).
        bf16: Compute under bfloat16 autocast, as training does with ``mixed_precision=bf16``.
        accumulates: An earlier micro-batch of the step has left its gradients.

    Raises:
        PlanError: Some part looks at values, which are not there.
    """
    meter = StepMeter()
    contexts = model.prepare(batch)
    counts = model.counts(batch, contexts)
    given = [*tensors_of(batch.inputs), batch.labels, *tensors_of(batch.token_map)]
    targets = tensors_of(contexts)
    meter.ignore([*model.parameters(), *model.buffers(), *given, *targets])
    if accumulates:
        with FakeTensorMode(allow_non_fake_inputs=True) if _is_fake(model) else nullcontext():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
        meter.ignore(p.grad for p in model.parameters() if p.grad is not None)
    try:
        with meter.parts_of(parts(model)), _owned_losses(meter, model), meter:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                terms = model(batch, contexts)
            if terms:  # plain SFT passes over clips without questions, as training does
                meter.backward(total_loss(terms, counts), model.parameters())
    except (DynamicOutputShapeException, DataDependentOutputException) as error:
        raise PlanError(
            f"cannot plan this run without weights: {str(error) or 'an operation'} needs values, not shapes"
        ) from error
    finally:
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        model.zero_grad(set_to_none=True)
    memory: dict[str, float] = {k: float(v) for k, v in meter.peak.items() if v}
    if accumulates:
        memory[GRADIENTS] = memory.get(GRADIENTS, 0.0) + gradients
    memory[BATCH] = _bytes(given)
    memory[TARGETS] = _bytes(targets) - _bytes(t for t in targets if any(t is own for own in given))
    labels = batch.labels
    return Cost(
        dict(meter.flops),
        memory,
        float(labels.numel()),
        float(batch.token_map.valid.sum()),
        float((labels != IGNORE).sum()),
    )


def weighted_sum(costs: Iterable[tuple[Cost, float]]) -> Cost:
    """Sum of costs, each times its weight. Of memory, which does not add up, the fullest is kept."""
    flops: defaultdict[tuple[str, str], float] = defaultdict(float)
    memory: Mapping[str, float] = {}
    sizes = [0.0, 0.0, 0.0]
    for cost, weight in costs:
        for key, value in cost.flops.items():
            flops[key] += weight * value
        for i, value in enumerate((cost.tokens, cost.visual_tokens, cost.labelled_tokens)):
            sizes[i] += weight * value
        memory = max(memory, cost.memory, key=lambda kinds: sum(kinds.values()))
    return Cost(dict(flops), memory, *sizes)


def lagrange_means(points: Sequence[float], numbers: Sequence[float]) -> list[float]:
    """Weights that make the mean over ``numbers`` of a polynomial out of its values at ``points``.

    A clip's cost is of degree two in its number of views (attention and matching go with pairs of views), so
    that three points say it all.
    """
    weights = []
    for own in points:
        values = [
            math.prod((n - other) / (own - other) for other in points if other != own)
            for n in numbers
        ]
        weights.append(sum(values) / len(values))
    return weights


def tensors_of(value: Any) -> list[Tensor]:
    """Tensors inside of dataclasses, mappings and sequences (targets of priors are such)."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        value = list(value.values())
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in tensors_of(item)]


class _owned_losses:  # noqa: N801
    """While open, the losses and edits of priors and the language loss belong to their owners."""

    def __init__(self, meter: StepMeter, model: SpatialModel) -> None:
        self.meter, self.model = meter, model

    def _wrapped(self) -> Iterator[tuple[Any, str, str]]:
        yield self.model, "_language", "lm_head"
        for name, prior in self.model.injectors.items():
            yield prior, "losses", f"priors.{name}"
            yield prior, "edit", f"priors.{name}"

    def __enter__(self) -> None:
        for target, method, owner in self._wrapped():
            target.__dict__[method] = self.meter.wrap(getattr(target, method), owner)

    def __exit__(self, *_: Any) -> None:
        for target, method, _owner in self._wrapped():
            del target.__dict__[method]


def _bytes(tensors: Iterable[Tensor]) -> float:
    """Bytes of their storages, shared ones once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return float(sum({s.data_ptr(): s.nbytes() for s in storages}.values()))


def _is_fake(model: SpatialModel) -> bool:
    return isinstance(next(model.parameters()).data, FakeTensor)
