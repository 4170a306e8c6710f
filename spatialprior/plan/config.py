"""Settings of planning: the GPU, how well it is used, and what no recipe says about the data."""

from __future__ import annotations

from dataclasses import dataclass

from spatialprior.plan.gpus import GPUS


@dataclass
class PlanConfig:
    """What a plan assumes. Every value is ours; nothing here changes a run.

    Attributes:
        gpu: Name of a known GPU (``spatialprior.plan.gpus``).
        gpus: Number of processes; ``None`` takes that of the scale's name (``8gpu_fsdp2``: 8), or 1.
        utilisation: Share of the GPU's dense bfloat16 peak that all counted FLOPs, recomputation included,
            run at. 0.4 lies in the range published for 7-8B models on H100 (33-39 % without recomputation).
        text_tokens: Tokens of a clip's question with its chat template's words.
        answer_tokens: Labelled tokens of an answer.
        instruction_frames: Views of an instruction clip, where its settings do not say.
        frame_side: Height and width of a view, pixels, where the data's settings do not say.
        gpu_hours: Budget to compare with: the paper's 32 H200 for about 10 hours.
        reserve: Share of the GPU's memory kept free: the CUDA context, the allocator's fragments, NCCL.
        out: Write the plan as JSON here too.
    """

    gpu: str = "h200"
    gpus: int | None = None
    utilisation: float = 0.4
    text_tokens: int = 64
    answer_tokens: int = 64
    instruction_frames: int = 32
    frame_side: int = 448
    gpu_hours: float = 320.0
    reserve: float = 0.08
    out: str | None = None

    def __post_init__(self) -> None:
        if self.gpu not in GPUS:
            raise ValueError(f"plan.gpu={self.gpu}: choose from {', '.join(GPUS)}")
        if self.gpus is not None and self.gpus < 1:
            raise ValueError(f"plan.gpus={self.gpus}: must be at least 1")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"plan.utilisation={self.utilisation}: must be in (0, 1]")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"plan.reserve={self.reserve}: must be in [0, 1)")
        for name in ("text_tokens", "answer_tokens", "instruction_frames", "frame_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"plan.{name}={getattr(self, name)}: must be at least 1")
