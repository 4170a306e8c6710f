"""The arms of a run: the recipe itself, and what it is compared with on the same clips, steps and seed.

An arm is trained, behind the run's phases; an inference arm is the trained recipe, scored once more with
settings of its priors changed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from spatialprior.run.errors import ConfigError
from spatialprior.run.phases import FOLDER, with_phases
from spatialprior.run.schema import Component, RunConfig
from spatialprior.run.training import MAIN, Training, changed_priors

BEFORE = "before"
CONTROL = "control"
_TAKEN = (BEFORE, MAIN, CONTROL)


def arms_of(config: RunConfig, run_folder: Path) -> list[Training]:
    """The recipe first, then the control, then the ablations that ``arms`` names.

    All but the control come behind their phases: it has no prior that these could prepare.

    Raises:
        ConfigError: An ablation or a phase names a prior or a setting that the recipe does not have, or has a
            name that is taken.
    """
    _check_phases(config)
    main = Training(
        arm=MAIN,
        folder=run_folder,
        priors=config.priors,
        vqa=config.vqa.enabled,
        trainer=config.trainer,
        data=config.data,
        instruction=config.instruction,
    )
    known: dict[str, Training] = {}
    arms = [with_phases(main, config.phases, known)]
    if config.control == "sft" and (main.priors or main.vqa):
        arms.append(replace(main, arm=CONTROL, folder=run_folder / CONTROL, priors={}, vqa=False))
    for name, changes in config.arms.items():
        if main.priors:
            path = f"arms.{name}"
            _check_name(path, (*_TAKEN, FOLDER))
            priors = changed_priors(main.priors, changes, path)
            arm = replace(main, arm=name, folder=run_folder / name, priors=priors)
            arms.append(with_phases(arm, config.phases, known))
    return arms


def trainings_of(arms: Collection[Training]) -> list[Training]:
    """All that is trained, in order: each arm behind its phases, a phase that arms share once."""
    return list({each.name: each for arm in arms for each in arm.chain()}.values())


def inference_arms_of(config: RunConfig) -> dict[str, dict[str, Component]]:
    """Inference arm -> the priors that it changes, with their settings.

    Raises:
        ConfigError: As :func:`arms_of`; or an arm of that name is trained.
    """
    found = {}
    for name, changes in config.inference_arms.items() if config.priors else ():
        path = f"inference_arms.{name}"
        if name in config.arms:
            raise ConfigError(f"{path}: arms has one of this name; call one of them something else")
        _check_name(path, _TAKEN)
        _check_rescored(config.priors, changes, path)
        priors = changed_priors(config.priors, changes, path)
        found[name] = {prior: priors[prior] for prior in changes}
    return found


def _check_rescored(
    priors: dict[str, Component], changes: dict[str, dict[str, Any]], path: str
) -> None:
    """Refuse what cannot change once a prior is trained."""
    for name, settings in changes.items():
        free = priors[name].cls.inference_settings if name in priors else ()
        for setting in settings:
            if name in priors and setting not in free:
                what = f"only {', '.join(free)} can" if free else "none of its settings can"
                raise ConfigError(
                    f"{path}.{name}.{setting} cannot change after training ({what}): use arms for that"
                )


def _check_phases(config: RunConfig) -> None:
    """Refuse phases of a run that has no use for them, and names that mean something else."""
    if config.phases and (config.vqa.enabled or not config.priors):
        why = "vqa.enabled=true takes none" if config.vqa.enabled else "this run has none"
        raise ConfigError(
            f"phases ({', '.join(config.phases)}) come before a training of priors, and {why}: add phases={{}}"
        )
    for name in config.phases:
        _check_name(f"phases.{name}", (*_TAKEN, *config.arms, *config.inference_arms))


def _check_name(path: str, taken: Collection[str]) -> None:
    """Refuse a name that another part of the run has, or that cannot be one of a folder and a stage."""
    name = path.partition(".")[2]
    if name in taken:
        raise ConfigError(f"{path}: this name is taken; call it something else")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"{path}: a name is of letters, digits, _ and - only")
