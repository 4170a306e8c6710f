"""A run, fully described. ``compose`` builds it; everything downstream takes what it needs from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.correspondence.config import CorrespondenceConfig
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.plan.config import PlanConfig
from spatialprior.train.config import ScaleConfig, TrainerConfig


@dataclass(frozen=True)
class Component:
    """A class chosen by name, with its checked settings.

    Attributes:
        kind: The name in the registry, as recipes write it.
        cls: The class found there.
        settings: An instance of ``cls.Config``.
    """

    kind: str
    cls: type[Any]
    settings: Any

    def to_dict(self) -> dict[str, Any]:
        # Settings that hold components write themselves.
        own = getattr(self.settings, "to_dict", None)
        return {"kind": self.kind, **plain(own() if own else dataclasses.asdict(self.settings))}


@dataclass
class VqaConfig:
    """The paper's VQA control: the matches that a prior would supervise, rewritten as questions.

    Attributes:
        enabled: Add these questions to every training clip with geometry.
        questions_per_clip: How many.
    """

    enabled: bool = False
    questions_per_clip: int = 4


@dataclass
class WandbConfig:
    """Weights & Biases, off by default. Without a network or an account ``offline`` still works.

    Attributes:
        enabled: Log there too (``log.jsonl`` is written in any case); needs ``pip install wandb``.
        project: Project name.
        mode: ``offline`` writes into the run folder only.
    """

    enabled: bool = False
    project: str = "spatialprior"
    mode: Literal["offline", "online"] = "offline"


@dataclass
class CorrespondenceRun:
    """What ``mode=correspondence`` scores.

    Attributes:
        clips: How many.
        split: Of the data.
        axes: Settings of the encoder with values to try, such as ``{layer: [10, 20], noise_level: [0, 0.3]}``.
        score: Settings of the score itself.
    """

    clips: int = 32
    split: Literal["train", "val", "test"] = "val"
    axes: dict[str, list[Any]] = field(default_factory=dict)
    score: CorrespondenceConfig = field(default_factory=CorrespondenceConfig)

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ValueError(f"correspondence.clips={self.clips}: must be at least 1")


@dataclass
class RunSettings:
    """What a run is made of, apart from its components.

    Attributes:
        recipe: Name of the recipe; also the folder under ``output_root``.
        size: How big the world is (``nano``, ``small``, ``paper``).
        hardware: Name of the chosen ``scale``.
        seed: Seeds initialisation, clip order and sampling.
        mode: ``train`` is the whole path; ``plan`` says what it would cost, ``correspondence`` scores encoder
            features, and both train nothing; ``verify`` recomputes the scores of ``card``; the others redo one
            stage of the run named by ``resume``.
        output_root: Run folders are made below it.
        resume: A run folder to continue, or whose stage to redo.
        card: A result card for ``mode=verify``, or a folder with some below it.
        control: ``sft`` also trains the same run without priors; ``none`` does not.
        arms: Further trainings of the recipe, name -> prior -> settings changed.
        inference_arms: Further scorings of the trained recipe, in the same form.
        phases: Trainings before the recipe's own, in order: name -> what they change of it
            (:class:`~spatialprior.run.phases.PhaseChanges`).
        trainer, scale, probe, vqa, wandb, plan, correspondence, geometry: Sections; see their classes.
    """

    recipe: str
    size: str
    hardware: str
    seed: int = 0
    mode: Literal[
        "train", "eval", "export", "probe", "report", "plan", "correspondence", "verify"
    ] = "train"
    output_root: str = "runs"
    resume: str | None = None
    card: str | None = None
    control: Literal["sft", "none"] = "sft"
    arms: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    inference_arms: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    vqa: VqaConfig = field(default_factory=VqaConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    correspondence: CorrespondenceRun = field(default_factory=CorrespondenceRun)
    geometry: GeometryEvalConfig = field(default_factory=GeometryEvalConfig)

    def __post_init__(self) -> None:
        if not self.output_root.strip():
            raise ValueError("output_root is empty: give a folder, such as output_root=runs")
        if (self.card is None) is (self.mode == "verify"):
            raise ValueError("card=PATH goes with mode=verify, and with no other mode")
        alone = ("train", "plan", "correspondence", "verify")
        if self.mode not in alone and self.resume is None:
            raise ValueError(f"mode={self.mode} needs a finished run: add resume=RUN_FOLDER")


@dataclass(kw_only=True)
class RunConfig(RunSettings):
    """A whole run.

    Attributes:
        backbone: The model to train.
        priors: Spatial priors by name, in the order in which they edit; empty is plain SFT.
        data: Clips with geometry (and questions, where it has them).
        instruction: Clips with questions, interleaved with those of ``data``; or ``None``.
        eval: Benchmark that scores the exported model; or ``None``.
        overrides: What the command line said, for the record.
    """

    backbone: Component
    data: Component
    priors: dict[str, Component] = field(default_factory=dict)
    instruction: Component | None = None
    eval: Component | None = None
    overrides: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Resolved config as plain values, in the shape in which recipes write it."""
        out: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Component):
                out[item.name] = value.to_dict()
            elif item.name == "priors":
                out[item.name] = {name: prior.to_dict() for name, prior in value.items()}
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                out[item.name] = plain(dataclasses.asdict(value))
            else:
                out[item.name] = plain(value)
        return out

    def fingerprint(self) -> str:
        """Twelve hex digits that change with anything that may change the numbers of a run."""
        content = self.to_dict()
        for name in (
            "mode",
            "output_root",
            "resume",
            "card",
            "wandb",
            "plan",
            "correspondence",
            "overrides",
        ):
            content.pop(name)
        content["phases"] = list(content["phases"].items())  # their order counts
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


SECTIONS = frozenset(item.name for item in dataclasses.fields(RunSettings))
"""Top-level keys that are settings, not components."""

COMPONENTS = ("backbone", "priors", "data", "instruction", "eval")
"""Top-level keys whose classes are chosen by ``kind``."""


def plain(value: Any) -> Any:
    """Tuples to lists and paths to text, all the way down, as YAML and JSON hold them."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
