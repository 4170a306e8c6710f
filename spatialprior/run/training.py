"""One model to train: an arm of a run, or a phase that comes before one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from spatialprior.core.merge import merged
from spatialprior.run.compose import resolve_component
from spatialprior.run.errors import ConfigError
from spatialprior.run.schema import Component, plain
from spatialprior.train.config import TrainerConfig

MAIN = "after"
"""The recipe itself, as an arm."""


@dataclass(frozen=True)
class Training:
    """What is trained, from which weights, and where it is written.

    Attributes:
        arm: ``after`` for the recipe, ``control`` for plain SFT, or an ablation's name.
        folder: Its log, checkpoints and export.
        priors: Attached priors.
        vqa: Whether the matches are rewritten as questions.
        trainer, data, instruction: As in :class:`~spatialprior.run.schema.RunConfig`.
        phase: Name of the phase; empty for an arm's last training, which is the arm.
        start: The training whose export this one begins with; ``None``: the recipe's backbone.
    """

    arm: str
    folder: Path
    priors: dict[str, Component]
    vqa: bool
    trainer: TrainerConfig
    data: Component
    instruction: Component | None
    phase: str = ""
    start: Self | None = None

    @property
    def name(self) -> str:
        """In the names of stages."""
        return f"{self.arm}/{self.phase}" if self.phase else self.arm

    @property
    def title(self) -> str:
        """As the user is told of it: a phase of the recipe by its own name."""
        if not self.phase:
            return self.arm
        return self.phase if self.arm == MAIN else f"{self.arm}.{self.phase}"

    @property
    def path(self) -> str:
        """What stands in front of its settings' names in messages."""
        return f"phases.{self.phase}." if self.phase else ""

    @property
    def export(self) -> Path:
        return self.folder / "export"

    def chain(self) -> list[Training]:
        """The phases before it in their order, then itself."""
        return [*(self.start.chain() if self.start else ()), self]

    def content(self) -> dict[str, Any]:
        """All that decides its result beside the run's seed and backbone, as plain values."""
        found = {
            "data": self.data.to_dict(),
            "instruction": self.instruction.to_dict() if self.instruction else None,
            "trainer": plain(dataclasses.asdict(self.trainer)),
            "priors": {name: prior.to_dict() for name, prior in self.priors.items()},
        }
        return found | ({"start": self.start.content()} if self.start else {})


def changed_priors(
    priors: dict[str, Component], changes: dict[str, dict[str, Any]], path: str
) -> dict[str, Component]:
    """The priors with some settings changed.

    Raises:
        ConfigError: A prior or a setting does not exist; it is named below ``path``.
    """
    changed = dict(priors)
    for name, settings in changes.items():
        if name not in priors:
            raise ConfigError(f"{path}.{name}: this run's priors are {', '.join(priors)}")
        node = merged(priors[name].to_dict(), settings)
        changed[name] = resolve_component("priors", node, path=f"{path}.{name}")
    return changed
