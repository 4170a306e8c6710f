"""The only place where accelerate is configured."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from spatialprior.train.config import ScaleConfig


class HardwareError(ValueError):
    """``scale`` asks for something this machine does not have."""


def make_accelerator(scale: ScaleConfig) -> Accelerator:
    """Accelerator for ``scale``.

    Raises:
        HardwareError: No CUDA device, no bfloat16, or sharding or processes that this release does not offer.
    """
    if scale.device == "cuda" and not torch.cuda.is_available():
        raise HardwareError("scale.device=cuda, but no CUDA device is visible; use scale=cpu")
    if scale.sharding != "none":
        raise HardwareError(
            f"scale.sharding={scale.sharding} is not available yet; use sharding=none"
        )
    on_cpu = scale.device == "cpu" or not torch.cuda.is_available()
    if scale.mixed_precision == "bf16" and not on_cpu and not torch.cuda.is_bf16_supported():
        raise HardwareError(
            "scale.mixed_precision=bf16, but this GPU has no bfloat16; use mixed_precision=no"
        )
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=scale.mixed_precision)
    if accelerator.num_processes > 1:
        raise HardwareError(
            f"{accelerator.num_processes} processes were launched, but training runs on one device as yet; "
            "start it with plain python"
        )
    return accelerator
