"""Phases: trainings that come before an arm's own, each starting from what the one before exported."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field, replace
from typing import Any

from spatialprior.core.merge import merged
from spatialprior.run.bind import bind
from spatialprior.run.compose import resolve_component
from spatialprior.run.errors import ConfigError
from spatialprior.run.schema import Component
from spatialprior.run.training import Training, changed_priors
from spatialprior.train.config import TrainerConfig

FOLDER = "phases"
"""Below an arm's folder; each phase has one of its own there."""

_OF_THE_RUN = ("scale", "backbone")


@dataclass
class PhaseChanges:
    """What a phase changes of its arm. Lists are replaced whole, everything else is merged.

    Attributes:
        trainer: Settings of the optimisation.
        priors: Prior -> settings.
        data: Settings of the data.
        instruction: Settings of the instruction data; ``null`` leaves it out. Not named, it stays as it is.
    """

    trainer: dict[str, Any] = field(default_factory=dict)
    priors: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    instruction: dict[str, Any] | None = None


def with_phases(
    arm: Training, phases: dict[str, dict[str, Any]], known: dict[str, Training]
) -> Training:
    """``arm`` with its phases before it.

    Args:
        arm: Without any; its own settings are what the phases change.
        phases: The recipe's ``phases``.
        known: Phases of earlier arms by content. One that is found there is trained once, for both; those made
            now are added.

    Raises:
        ConfigError: A phase names what does not exist, or changes what it cannot.
    """
    start: Training | None = None
    for name, changes in phases.items():
        phase = replace(_changed(arm, name, changes), start=start)
        start = known.setdefault(json.dumps(phase.content(), sort_keys=True), phase)
    return replace(arm, start=start)


def _changed(arm: Training, name: str, changes: dict[str, Any]) -> Training:
    path = f"phases.{name}"
    for key in _OF_THE_RUN:
        if key in changes:
            raise ConfigError(
                f"{path}.{key} cannot change between phases: {key} is the whole run's; drop it"
            )
    new = bind(PhaseChanges, changes, path)
    for prior, settings in new.priors.items():
        kind = arm.priors[prior].kind if prior in arm.priors else None
        if kind and settings.get("kind", kind) != kind:
            raise ConfigError(
                f"{path}.priors.{prior}.kind={settings['kind']}: the run's {prior} is a {kind}, in every phase"
            )
    trainer = merged(dataclasses.asdict(arm.trainer), new.trainer)
    data = resolve_component("data", merged(arm.data.to_dict(), new.data), path=f"{path}.data")
    return replace(
        arm,
        phase=name,
        folder=arm.folder / FOLDER / name,
        priors=changed_priors(arm.priors, new.priors, f"{path}.priors"),
        trainer=bind(TrainerConfig, trainer, f"{path}.trainer"),
        data=data,
        instruction=_instruction(arm.instruction, new, path)
        if "instruction" in changes
        else arm.instruction,
    )


def _instruction(below: Component | None, new: PhaseChanges, path: str) -> Component | None:
    if new.instruction is None:
        return None
    node = merged(below.to_dict() if below else {}, new.instruction)
    return resolve_component("instruction", node, path=f"{path}.instruction")
