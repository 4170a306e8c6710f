"""The arms of a run: the recipe itself, and what it is compared with on the same clips, steps and seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from spatialprior.run.bind import bind
from spatialprior.run.errors import ConfigError
from spatialprior.run.schema import Component, RunConfig

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
        if not main.priors:
            continue
        if name in (MAIN, CONTROL, "before"):
            raise ConfigError(f"arms.{name}: this name is taken; call the ablation something else")
        priors = dict(main.priors)
        for prior, settings in changes.items():
            if prior not in priors:
                raise ConfigError(f"arms.{name}.{prior}: this run's priors are {', '.join(priors)}")
            component = priors[prior]
            values = {**component.to_dict(), **settings}
            values.pop("kind")
            changed = bind(component.cls.Config, values, f"arms.{name}.{prior}")
            priors[prior] = replace(component, settings=changed)
        arms.append(replace(main, name=name, folder=run_folder / name, priors=priors))
    return arms
