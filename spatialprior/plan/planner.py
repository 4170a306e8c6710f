"""A run's plan: parameters, memory, FLOPs, tokens, hours, and whether it fits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spatialprior.core.backbone import Checkpointing
from spatialprior.model import SpatialModel
from spatialprior.plan.cost import TARGETS, Cost, cost_of, lagrange_means, weighted_sum
from spatialprior.plan.fake_model import fake_model
from spatialprior.plan.gpus import GPUS, Gpu
from spatialprior.plan.memory import Weights, memory_of, weights_of
from spatialprior.plan.parameters import parameters_by_owner
from spatialprior.plan.published import PlanError, Shape, shape_of
from spatialprior.plan.workload import Workload, word_of_one_token, workloads

if TYPE_CHECKING:
    from spatialprior.run.schema import RunConfig


Pass = tuple[tuple[str, int], ...]
"""A micro-batch: kinds of clips, and how many of each."""


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
    """What a run will cost.

    Attributes:
        run: The run's config, as plain values.
        shape: The backbone's shape.
        gpu, gpus: Device, and how many.
        parameters: Owner -> (all, trained).
        memory: Kind -> bytes on one GPU, at the fullest moment.
        free: Bytes of the GPU that the plan may fill (all but the reserve).
        step: FLOPs and tokens of a step on all GPUs together.
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
    step: Cost
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
    def gpu_hours(self) -> float:
        return self.hours * self.gpus


class Planner:
    """Costs of a run's micro-batches, each found once."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        backbone = config.backbone
        self.shape = shape_of(backbone.cls, backbone.settings.path)
        self.gpus = number_of_gpus(config)
        self.works = workloads(config)
        self.model: SpatialModel = fake_model(
            backbone.cls,
            backbone.settings,
            self.shape,
            {name: (prior.cls, prior.settings) for name, prior in config.priors.items()},
            config.trainer.language_weight,
        )
        self.model.set_lockstep(self.gpus > 1)
        self.weights: Weights = weights_of(self.model)
        adapter: Any = self.model.backbone
        self._encoder = adapter.encoder()
        self._word = word_of_one_token(adapter.processor.tokenizer)
        self._costs: dict[Any, Cost] = {}

    def passes(self, hardware: Hardware) -> Counter[Pass]:
        """What a step's micro-batches are made of -> how many there are, as training deals clips out."""
        kinds: list[str] = []
        for work in self.works:
            kinds += [work.name] * round(work.clips_per_step)
        found: Counter[Pass] = Counter()
        for rank in range(self.gpus):
            own = kinds[rank :: self.gpus]
            for start in range(0, len(own), hardware.micro_batch):
                dealt = Counter(own[start : start + hardware.micro_batch])
                found[tuple(sorted(dealt.items()))] += 1
        return found

    def cost(self, dealt: Pass, hardware: Hardware, reach: float) -> Cost:
        """One micro-batch; its clips have ``reach`` (0 to 1) of the way from fewest to most views."""
        accumulates = self.accumulates(hardware)
        works = {work.name: work for work in self.works}
        views = tuple(works[name].frames_at(reach) for name, _ in dealt)
        key = (dealt, views, hardware.checkpointing, accumulates)
        if key not in self._costs:
            self.model.backbone.set_gradient_checkpointing(hardware.checkpointing)
            clips = [
                works[name].clip(n, self._word)
                for (name, count), n in zip(dealt, views, strict=True)
                for _ in range(count)
            ]
            bf16 = self.config.scale.mixed_precision == "bf16"
            batch = self._encoder(clips)
            self._costs[key] = cost_of(self.model, batch, bf16=bf16, accumulates=accumulates)
        return self._costs[key]

    def accumulates(self, hardware: Hardware) -> bool:
        return self.config.trainer.clips_per_step > self.gpus * hardware.micro_batch

    def step(self, hardware: Hardware) -> Cost:
        """Mean cost of a step on all GPUs together."""
        costs = []
        for dealt, times in self.passes(hardware).items():
            ranges = [work.frames for work in self.works if work.name in dict(dealt)]
            low, high = max(ranges, key=lambda frames: frames[1] - frames[0])
            middle = (low + high) // 2
            views = sorted({low, middle, high})
            weights = lagrange_means(views, range(low, high + 1))
            points = [(n - low) / max(high - low, 1) if low < high else 1.0 for n in views]
            costs += [
                (self.cost(dealt, hardware, point), weight * times)
                for point, weight in zip(points, weights, strict=True)
            ]
        return weighted_sum(costs)

    def memory(self, hardware: Hardware) -> dict[str, float]:
        """One GPU at the fullest moment: the micro-batch that takes most, its clips at their most views."""
        passes = self.passes(hardware)
        costs = {dealt: self.cost(dealt, hardware, 1.0) for dealt in passes}
        targets = sum(costs[dealt].memory[TARGETS] * times for dealt, times in passes.items())
        every = [
            memory_of(
                self.weights,
                cost,
                targets=targets / self.gpus,
                sharding=hardware.sharding,
                gpus=self.gpus,
            )
            for cost in costs.values()
        ]
        return max(every, key=lambda kinds: sum(kinds.values()))


def plan_run(config: RunConfig) -> Plan:
    """Plan a run. Opens no data and loads no weight.

    Raises:
        PlanError: The backbone's shape is unknown, or the number of GPUs, or some part needs values.
    """
    planner = Planner(config)
    scale, settings = config.scale, config.plan
    hardware = Hardware(scale.micro_batch, scale.gradient_checkpointing, scale.sharding)
    step = planner.step(hardware)
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
    total = step.total_flops
    pace = gpu.tflops * 1e12 * settings.utilisation * planner.gpus * 3600
    hours = total * config.trainer.steps / pace
    priors = sum(value for (part, _), value in step.flops.items() if part.startswith("priors."))
    has_control = config.control == "sft" and (config.priors or config.vqa.enabled)
    control = hours * (1 - priors / total) if has_control else 0.0
    return Plan(
        config,
        planner.shape,
        gpu,
        planner.gpus,
        parameters_by_owner(planner.model),
        memory,
        free,
        step,
        planner.works,
        hours,
        hours + control,
        fitting,
        lowest,
    )


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
