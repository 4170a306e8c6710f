"""The only place where accelerate is configured, and where an engine is chosen for the hardware."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from spatialprior.model import SpatialModel
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.engine import DataParallel, Engine

LAUNCH = "torchrun --nproc_per_node N -m spatialprior.run ..."


class HardwareError(ValueError):
    """``scale`` asks for something this machine or this launch does not have."""


def make_accelerator(scale: ScaleConfig) -> Accelerator:
    """Accelerator for ``scale``; joins the other processes where a launcher started several.

    Raises:
        HardwareError: No CUDA device, no bfloat16, or sharding without other processes.
    """
    if scale.device == "cuda" and not torch.cuda.is_available():
        raise HardwareError("scale.device=cuda, but no CUDA device is visible; use scale=cpu")
    on_cpu = scale.device == "cpu" or not torch.cuda.is_available()
    if scale.mixed_precision == "bf16" and not on_cpu and not torch.cuda.is_bf16_supported():
        raise HardwareError(
            "scale.mixed_precision=bf16, but this GPU has no bfloat16; use mixed_precision=no"
        )
    # Long enough for one process to write a large checkpoint while the others wait in the next step.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=2))
    accelerator = Accelerator(
        cpu=on_cpu, mixed_precision=scale.mixed_precision, kwargs_handlers=[patience]
    )
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise HardwareError(
            f"the launcher's configuration asks accelerate for {kind.value}, but sharding is a setting of the "
            "run here: start with torchrun, or 'accelerate launch --multi_gpu', and set scale.sharding"
        )
    if scale.sharding != "none" and accelerator.num_processes == 1:
        raise HardwareError(
            f"scale.sharding={scale.sharding} shares a model out among processes, and this run has one: "
            f"start it with {LAUNCH}, or use scale.sharding=none"
        )
    if scale.sharding.startswith("zero") and find_spec("deepspeed") is None:
        raise HardwareError(
            f"scale.sharding={scale.sharding} needs DeepSpeed: pip install deepspeed, or use sharding=fsdp2"
        )
    return accelerator


def make_engine(
    model: SpatialModel, config: TrainerConfig, scale: ScaleConfig, accelerator: Accelerator
) -> Engine:
    """The engine that ``scale`` asks for, around ``model``."""
    if accelerator.num_processes == 1:
        return Engine(model, config, accelerator)
    vision = (p for part in model.backbone.vision for p in part.parameters())
    if scale.gradient_checkpointing == "reentrant" and any(p.requires_grad for p in vision):
        raise HardwareError(
            "scale.gradient_checkpointing=reentrant does not go with several processes that train the vision "
            "tower; use nonreentrant, or backbone.freeze_vision=true"
        )
    if scale.sharding == "fsdp2":
        from spatialprior.train.fsdp import FullySharded

        return FullySharded(model, config, accelerator)
    if scale.sharding in ("zero2", "zero3"):
        from spatialprior.train.zero import Zero

        return Zero(model, config, accelerator, stage=int(scale.sharding[-1]))
    return DataParallel(model, config, accelerator)
