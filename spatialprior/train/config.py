"""Settings of training: what is optimised (``trainer``) and on which hardware (``scale``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class TrainerConfig:
    """The optimisation. Nothing here depends on the hardware, so equal settings mean equal runs.

    Attributes:
        steps: Optimiser steps.
        clips_per_step: Clips in one optimiser step, over all devices and micro-batches (the global batch).
        learning_rate: Peak learning rate of the backbone; priors scale it by their own multiple.
        schedule: ``cosine`` (to zero) or ``constant``, after the warm-up.
        warmup_fraction: Share of the steps over which the rate rises linearly from zero.
        weight_decay: AdamW's, on matrices only.
        betas: AdamW's.
        grad_clip: Largest gradient norm; 0 switches clipping off.
        language_weight: Factor of the language loss in the total.
        instruction_share: Share of a step's clips drawn from ``instruction``, where a run has such data.
        checkpoint_every: Steps between checkpoints; 0 keeps the last one only.
        log_every: Steps between lines of ``log.jsonl``.
        num_workers: Loader processes; 0 loads in the training process. The clips do not depend on it.
    """

    steps: int = 600
    clips_per_step: int = 4
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = 1.0
    language_weight: float = 1.0
    instruction_share: float = 0.5
    checkpoint_every: int = 200
    log_every: int = 1
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "clips_per_step", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: must be at least 1")
        for name in (
            "checkpoint_every",
            "num_workers",
            "weight_decay",
            "grad_clip",
            "language_weight",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: must not be negative")
        for name in ("warmup_fraction", "instruction_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)}: must be in [0, 1)")
        if not self.learning_rate > 0:
            raise ValueError(f"trainer.learning_rate={self.learning_rate}: must be positive")


@dataclass
class ScaleConfig:
    """The hardware. None of it changes the optimisation: the global batch lives in ``trainer``.

    Attributes:
        device: ``auto`` takes a CUDA device where there is one.
        micro_batch: Clips per device and forward pass; gradients accumulate up to the global batch.
        max_tokens: Tokens of a forward pass, padding included, for clips of unlike length; ``micro_batch`` is
            an upper bound then. 0 for no such limit.
        mixed_precision: ``bf16`` computes in bfloat16 where the device supports it; weights stay as they are.
        gradient_checkpointing: Recompute layers in the backward pass; ``reentrant`` or ``nonreentrant``.
        compile: ``torch.compile`` on the decoder layers.
        sharding: What the processes that ``torchrun`` or ``accelerate launch`` started share out. ``none``:
            nothing, each holds all weights (DDP). ``fsdp2``: parameters, gradients and moments. ``zero2``,
            ``zero3``: the same two ways by DeepSpeed, where it is installed.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch: int = 4
    max_tokens: int = 0
    mixed_precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: Literal["none", "reentrant", "nonreentrant"] = "none"
    compile: bool = False
    sharding: Literal["none", "fsdp2", "zero2", "zero3"] = "none"

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise ValueError(f"scale.micro_batch={self.micro_batch}: must be at least 1")
        if self.max_tokens < 0:
            raise ValueError(f"scale.max_tokens={self.max_tokens}: must not be negative")
