"""Memory of one GPU by kind: what a micro-batch leaves, what weights and optimiser take, sharded or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from spatialprior.model import SpatialModel
from spatialprior.plan.cost import BATCH, TARGETS, Cost
from spatialprior.plan.meter import GRADIENTS

MOMENTS = 2  # AdamW's, each of the weight's own dtype
_BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default reduce_bucket_size
_GATHERED_BLOCKS = 2  # the block at work and the one fetched ahead


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights.

    Attributes:
        frozen, trained: By whether they take part in the optimisation.
        master: What an optimiser's float32 copies of trained weights of another dtype would take.
        block: The largest unit that is sharded by itself, mostly a decoder layer or a vision block.
        root: Everything outside of these.
        dtypes: ``frozen`` or ``trained`` -> dtypes in use.
    """

    frozen: int
    trained: int
    master: int
    block: int
    root: int
    dtypes: Mapping[str, str]


def weights_of(model: SpatialModel) -> Weights:
    """Count a model's weights, shared ones once."""
    sizes = [_bytes(block.parameters()) for block in model.blocks()]
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return Weights(
        frozen=_bytes(frozen),
        trained=_bytes(trained),
        master=sum(4 * p.numel() for p in trained if p.element_size() != 4),
        block=max(sizes),
        root=_bytes(model.parameters()) - sum(sizes),
        dtypes={"frozen": _dtypes(frozen), "trained": _dtypes(trained)},
    )


def memory_of(
    weights: Weights,
    cost: Cost,
    *,
    targets: float,
    sharding: str,
    gpus: int,
) -> dict[str, float]:
    """Kind -> bytes on one GPU at the fullest moment of a step.

    Args:
        weights: Of the whole model.
        cost: Of the largest micro-batch.
        targets: Bytes of the priors' targets of a step's micro-batches on one GPU: they are made up front.
        sharding: As in ``scale``: ``none`` (DDP on several GPUs), ``fsdp2``, ``zero2`` or ``zero3``.
        gpus: Processes.
    """
    sharded = gpus if sharding != "none" else 1
    whole = sharding in ("none", "zero2")  # weights are on every GPU
    share = 1 if whole else gpus
    kinds: dict[str, float] = {
        f"weights, frozen ({weights.dtypes['frozen']})": weights.frozen / share,
        f"weights, trained ({weights.dtypes['trained']})": weights.trained / share,
        "optimiser, AdamW's moments": MOMENTS * weights.trained / sharded,
    }
    if sharding.startswith("zero"):
        # DeepSpeed keeps moments and a copy of the weights in float32.
        kinds["optimiser, AdamW's moments"] += MOMENTS * weights.master / (2 * sharded)
        kinds["optimiser, float32 copies"] = weights.master / sharded
    # Whole gradients are counted by the meter, at the moment that is fullest.
    kinds[GRADIENTS] = cost.memory.get(GRADIENTS, 0.0) / sharded
    if sharding == "none" and gpus > 1:
        kinds["DDP's buckets"] = float(weights.trained)
    elif sharding in ("fsdp2", "zero3"):
        kinds["gathered weights"] = float(
            min(weights.root + _GATHERED_BLOCKS * weights.block, weights.frozen + weights.trained)
        )
    elif sharding == "zero2":
        kinds["DeepSpeed's bucket"] = float(min(weights.trained, 4 * _BUCKET_ELEMENTS))
    activations = {k: v for k, v in cost.memory.items() if k not in (GRADIENTS, BATCH, TARGETS)}
    update = (
        weights.trained / sharded
    )  # AdamW's foreach works on a list of temporaries of the weights' size
    if update > sum(activations.values()):
        activations = {"temporaries of the update": update}
    kinds |= {_activation(part): size for part, size in activations.items()}
    kinds["a batch, and a step's targets"] = cost.memory.get(BATCH, 0.0) + targets
    return {kind: size for kind, size in kinds.items() if size}


def _activation(part: str) -> str:
    names = {"lm_head": "logits of labelled tokens", "other": "activations, elsewhere"}
    if part.startswith("priors."):
        return f"activations and maps, {part}"
    return part if part.startswith("temporaries") else names.get(part, f"activations, {part}")


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _dtypes(parameters: list[nn.Parameter]) -> str:
    return ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})) or "none"
