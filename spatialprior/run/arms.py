"""The arms of a run: the recipe itself, and what it is compared with on the same clips, steps and seed.

An arm is trained; an inference arm is the trained recipe, scored once more with settings of its priors changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spatialprior.core.merge import merged
from spatialprior.run.compose import resolve_component
from spatialprior.run.errors import ConfigError
from spatialprior.run.schema import Component, RunConfig

BEFORE = "before"
MAIN = "after"
CONTROL = "control"


@dataclass(frozen=True)
class Arm:
    """One model to train.

    Attributes:
        name: Its name in the report: ``after`` for the recipe, ``control`` for plain SFT.
        folder: Its log, checkpoints and export.
        priors: Attached priors.
        vqa: Whether the matches are rewritten as questions.
    """

    name: str
    folder: Path
    priors: dict[str, Component]
    vqa: bool

    @property
    def export(self) -> Path:
        return self.folder / "export"


def arms_of(config: RunConfig, run_folder: Path) -> list[Arm]:
    """The recipe first, then the control, then the ablations that ``arms`` names.

    Raises:
        ConfigError: An ablation names a prior or a setting that the recipe does not have.
    """
    main = Arm(MAIN, run_folder, config.priors, config.vqa.enabled)
    arms = [main]
    if config.control == "sft" and (main.priors or main.vqa):
        arms.append(Arm(CONTROL, run_folder / CONTROL, {}, False))
    for name, changes in config.arms.items():
        if main.priors:
            priors = _changed(main.priors, changes, f"arms.{name}")
            arms.append(replace(main, name=name, folder=run_folder / name, priors=priors))
    return arms


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
        _check_rescored(config.priors, changes, path)
        priors = _changed(config.priors, changes, path)
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


def _changed(
    priors: dict[str, Component], changes: dict[str, dict[str, Any]], path: str
) -> dict[str, Component]:
    """The recipe's priors with some settings changed."""
    if path.rpartition(".")[2] in (MAIN, CONTROL, BEFORE):
        raise ConfigError(f"{path}: this name is taken; call the ablation something else")
    changed = dict(priors)
    for name, settings in changes.items():
        if name not in priors:
            raise ConfigError(f"{path}.{name}: this run's priors are {', '.join(priors)}")
        node = merged(priors[name].to_dict(), settings)
        changed[name] = resolve_component("priors", node, path=f"{path}.{name}")
    return changed
