"""Running out of memory, as one line that says what to lower."""

from __future__ import annotations

import torch

from spatialprior.run.errors import RunError, one_line
from spatialprior.run.schema import RunConfig


def explained(error: BaseException, config: RunConfig) -> BaseException:
    """``error``, or where memory ran out a :class:`RunError` with this run's own settings to change."""
    if not _is_out_of_memory(error):
        return error
    scale = config.scale
    ways = []
    if scale.max_tokens:
        ways.append(f"scale.max_tokens={scale.max_tokens // 2}")
    elif scale.micro_batch > 1:
        ways.append(f"scale.micro_batch={scale.micro_batch // 2}")
    if scale.gradient_checkpointing == "none":
        ways.append("scale.gradient_checkpointing=nonreentrant")
    if scale.mixed_precision == "no" and scale.device != "cpu":
        ways.append("scale.mixed_precision=bf16")
    if scale.sharding == "none":
        ways.append("more GPUs with scale=8gpu_fsdp2")
    others = ["fewer or smaller frames in data and instruction"]
    if getattr(config.backbone.settings, "lora", None) is None:
        others.insert(0, "lora=rank_128")
    same = f"{'; '.join(ways)} (resume=RUN_FOLDER takes these along); " if ways else ""
    return RunError(
        f"out of memory. Lower, in this order: {same}then what makes it another run: {'; '.join(others)}. "
        f"mode=plan says beforehand what fits ({one_line(error)[:160]})"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and (
        "out of memory" in str(error) or "can't allocate memory" in str(error)
    )
