"""A run's plan: parameters, memory, FLOPs, tokens, hours, and whether it fits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spatialprior.core.backbone import Checkpointing
from spatialprior.model import SpatialModel
from spatialprior.plan.cost import Cost, cost_of, frames_to_try, mean_over_frames
from spatialprior.plan.fake_model import fake_model
from spatialprior.plan.gpus import GPUS, Gpu
from spatialprior.plan.memory import Weights, memory_of, weights_of
from spatialprior.plan.parameters import parameters_by_owner
from spatialprior.plan.published import PlanError, Shape, shape_of
from spatialprior.plan.workload import Workload, workloads

if TYPE_CHECKING:
    from spatialprior.run.schema import RunConfig


@dataclass(frozen=True)
class Hardware:
    """What of ``scale`` decides whether a run fits.

    Attributes:
        micro_batch: Clips per GPU and pass.
        checkpointing: How layers are recomputed.
        sharding: As in ``scale``.
    """

    micro_batch: int
    checkpointing: Checkpointing
    sharding: str

    def __str__(self) -> str:
        return (
            f"scale.micro_batch={self.micro_batch} scale.gradient_checkpointing={self.checkpointing} "
            f"scale.sharding={self.sharding}"
        )


@dataclass(frozen=True)
class Plan:
    """What a run will cost. Bytes, FLOPs and tokens are of one optimiser step.

    Attributes:
        run: The run's config, as plain values.
        shape: The backbone's shape.
        gpu, gpus: Device, and how many.
        parameters: Owner -> (all, trained).
        memory: Kind -> bytes on one GPU, at the fullest moment.
        free: Bytes of the GPU that the plan may fill (all but the reserve).
        flops: ``(part, phase)`` -> FLOPs.
        tokens, visual_tokens, labelled_tokens: Of a step.
        works: Kinds of clips of a step.
        hours: Wall-clock hours of this run's budget; ``control_hours`` adds its control (SFT).
        gpu_hours: ``hours`` times GPUs.
        fitting: The nearest hardware setting that fits, where the given one does not; ``None``: none was found.
        lowest: Bytes of the smallest setting tried.
    """

    config: RunConfig
    shape: Shape
    gpu: Gpu
    gpus: int
    parameters: dict[str, tuple[int, int]]
    memory: dict[str, float]
    free: float
    flops: dict[tuple[str, str], float]
    tokens: float
    visual_tokens: float
    labelled_tokens: float
    works: list[Workload]
    hours: float
    control_hours: float
    fitting: Hardware | None
    lowest: float

    @property
    def total_memory(self) -> float:
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        return self.total_memory <= self.free

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus

    def share(self, prefix: str) -> float:
        """Share of the step's FLOPs that parts of this name take."""
        own = sum(value for (part, _), value in self.flops.items() if part.startswith(prefix))
        return own / self.total_flops


class Planner:
    """Costs of a run's micro-batches, each found once."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        backbone = config.backbone
        self.shape = shape_of(backbone.kind, backbone.settings.path)
        self.gpus = number_of_gpus(config)
        self.works = workloads(config)
        self.model: SpatialModel = fake_model(
            backbone.kind,
            backbone.cls,
            backbone.settings,
            self.shape,
            {name: (prior.cls, prior.settings) for name, prior in config.priors.items()},
            config.trainer.language_weight,
        )
        self.weights: Weights = weights_of(self.model)
        self._encoder: Any = self.model.backbone.encoder()
        self._costs: dict[Any, Cost] = {}

    def cost(self, work: Workload, frames: int, clips: int, hardware: Hardware) -> Cost:
        """One micro-batch of ``clips`` equal clips."""
        accumulates = self.accumulates(hardware)
        key = (work.name, frames, clips, hardware.checkpointing, accumulates)
        if key not in self._costs:
            self.model.backbone.set_gradient_checkpointing(hardware.checkpointing)
            batch = self._encoder([work.clip(frames)] * clips)
            bf16 = self.config.scale.mixed_precision == "bf16"
            self._costs[key] = cost_of(self.model, batch, bf16=bf16, accumulates=accumulates)
        return self._costs[key]

    def accumulates(self, hardware: Hardware) -> bool:
        return self.config.trainer.clips_per_step > self.gpus * hardware.micro_batch

    def step(self, hardware: Hardware) -> list[tuple[Workload, Cost]]:
        """Mean cost of a clip of each kind."""
        found = []
        for work in self.works:
            costs = {n: self.cost(work, n, 1, hardware) for n in frames_to_try(work.frames)}
            found.append((work, mean_over_frames(costs, work.frames)))
        return found

    def memory(self, hardware: Hardware) -> dict[str, float]:
        """One GPU at the fullest moment: the kind of clip that takes most, at its most views."""
        # A GPU never has more clips of a kind in a pass than come to it in a step.
        every = []
        for work in self.works:
            clips = max(1, min(hardware.micro_batch, -(-int(work.clips_per_step) // self.gpus)))
            cost = self.cost(work, work.frames[1], clips, hardware)
            every.append(
                memory_of(
                    self.weights,
                    cost,
                    sharding=hardware.sharding,
                    gpus=self.gpus,
                    accumulates=self.accumulates(hardware),
                )
            )
        return max(every, key=lambda kinds: sum(kinds.values()))


def plan_run(config: RunConfig) -> Plan:
    """Plan a run. Opens no data and loads no weight.

    Raises:
        PlanError: The backbone's shape is unknown, or the number of GPUs, or some part needs values.
    """
    planner = Planner(config)
    scale, settings = config.scale, config.plan
    hardware = Hardware(scale.micro_batch, scale.gradient_checkpointing, scale.sharding)
    flops: Counter[tuple[str, str]] = Counter()
    sizes = [0.0, 0.0, 0.0]
    for work, cost in planner.step(hardware):
        for key, value in cost.flops.items():
            flops[key] += work.clips_per_step * value  # type: ignore[assignment]
        for i, size in enumerate((cost.tokens, cost.visual_tokens, cost.labelled_tokens)):
            sizes[i] += work.clips_per_step * size
    gpu = GPUS[settings.gpu]
    free = gpu.gib * 2**30 * (1 - settings.reserve)
    memory = planner.memory(hardware)
    fitting, lowest = None, sum(memory.values())
    if lowest > free:
        for other in _smaller(hardware, planner.gpus):
            size = sum(planner.memory(other).values())
            lowest = min(lowest, size)
            if size <= free:
                fitting = other
                break
    total = float(sum(flops.values()))
    pace = gpu.tflops * 1e12 * settings.utilisation * planner.gpus * 3600
    hours = total * config.trainer.steps / pace
    priors = sum(value for (part, _), value in flops.items() if part.startswith("priors."))
    has_control = config.control == "sft" and (config.priors or config.vqa.enabled)
    control = hours * (1 - priors / total) if has_control else 0.0
    return Plan(
        config, planner.shape, gpu, planner.gpus, parameters_by_owner(planner.model), memory, free, dict(flops),
        sizes[0], sizes[1], sizes[2], planner.works, hours, hours + control, fitting, lowest,
    )  # fmt: skip


def number_of_gpus(config: RunConfig) -> int:
    """Processes of a run: ``plan.gpus``, or what the scale's name says.

    Raises:
        PlanError: Neither does.
    """
    if config.plan.gpus is not None:
        return config.plan.gpus
    if match := re.match(r"(\d+)gpu", config.hardware):
        return int(match[1])
    if config.hardware == "multinode":
        raise PlanError(
            "scale=multinode does not say how many GPUs there are: add plan.gpus=N, such as plan.gpus=32"
        )
    return 1


def _smaller(given: Hardware, gpus: int) -> Iterator[Hardware]:
    """Settings that take less memory, the one that costs least time first."""
    seen = {given}
    micros = [given.micro_batch]
    while micros[-1] > 1:
        micros.append(micros[-1] // 2)
    kept: Checkpointing = given.checkpointing
    shardings = [given.sharding] + (["fsdp2"] if gpus > 1 else [])
    for checkpointing in dict.fromkeys((kept, "nonreentrant" if kept == "none" else kept)):
        for sharding in dict.fromkeys(shardings):
            for micro in micros:
                other = replace(
                    given, micro_batch=micro, checkpointing=checkpointing, sharding=sharding
                )
                if other not in seen:
                    seen.add(other)
                    yield other
