"""The leak audit of a run: all that its trainings read, beside what its benchmark asks about."""

from __future__ import annotations

from typing import Any

from spatialprior.data.scenes import Scenes
from spatialprior.eval.leaks import Audit
from spatialprior.run.errors import RunError
from spatialprior.run.schema import Component, RunConfig
from spatialprior.run.sources import benchmark_of, parts
from spatialprior.run.training import Training

_SILENT = "it cannot tell its scenes"


def audit_of(config: RunConfig, trainings: list[Training], benchmark: Any = None) -> Audit:
    """Scenes of the benchmark and of all training data, from names alone: nothing is decoded or rendered.

    A source that is not there (a finished run may have moved) or does not know is said to be not audited.

    Args:
        config: The run.
        trainings: All of it.
        benchmark: The run's, where it is made already and has read its data.

    Raises:
        ValueError: The benchmark's own data cannot be read.
    """
    asked = (benchmark or benchmark_of(config)).scenes()
    found: dict[str, Scenes | str] = {}
    seen: list[Component] = []
    for each in trainings:
        for key, source in (("data", each.data), ("instruction", each.instruction)):
            for part in parts(source):
                if part not in seen:
                    seen.append(part)
                    found[_name(f"{each.path}{key}", part, found)] = _scenes(part)
    return Audit(_SILENT if asked is None else asked, found)


def check_leaks(config: RunConfig, trainings: list[Training]) -> None:
    """Refuse a benchmark whose scenes are training data.

    Raises:
        RunError: They are, and ``eval.allow_leaks`` is not set.
    """
    if config.eval is None:
        return
    # Also where leaks are allowed: it reads the benchmark's data, which may not be there.
    audit = audit_of(config, trainings)
    if audit.shared and not config.eval.settings.allow_leaks:
        raise RunError(
            f"eval={config.eval.kind}: {audit.told()} are in the training data too, so its score would not be "
            "of held-out scenes; train on others, or add eval.allow_leaks=true, and the report says so"
        )


def _name(key: str, part: Component, taken: dict[str, Any]) -> str:
    """``data (rooms)``; a further one of that name is counted."""
    name, count = f"{key} ({part.kind})", 2
    while name in taken:
        name, count = f"{key} ({part.kind} {count})", count + 1
    return name


def _scenes(source: Component) -> Scenes | str:
    if not hasattr(source.cls, "scenes"):
        return _SILENT
    try:
        found: Scenes | None = source.cls(source.settings).scenes("train")
    except (ValueError, RuntimeError, OSError) as error:
        return " ".join(str(error).split())
    return _SILENT if found is None else found
