"""Shapes of published models by hub id: planning needs no weights and no network."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from spatialprior.registry import near_miss


class PlanError(ValueError):
    """A run cannot be planned for a reason that the user can mend. The message is one line."""


@dataclass(frozen=True)
class Shape:
    """Everything that planning knows of a model.

    Attributes:
        name: Hub id or folder.
        source: Where its numbers come from.
        config: The Hugging Face config.
        image_processor: Settings of its image processor that differ from the nano's; empty for the nano.
        parameters: Published number of parameters, or ``None``.
        exact: Whether that number is exact, rather than rounded to three digits.
    """

    name: str
    source: str
    config: PreTrainedConfig
    image_processor: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    exact: bool = False


def published_names() -> list[str]:
    """Hub ids whose shapes are package data."""
    return sorted(_records())


def published_shape(name: str) -> Shape:
    """Shape of a known hub id."""
    record = dict(_records()[name])
    config = dict(record.pop("config"))
    return Shape(**record, config=CONFIG_MAPPING[config["model_type"]].from_dict(config))


def shape_of(kind: str, path: str) -> Shape:
    """Shape of the model that a recipe's ``backbone.path`` means.

    Args:
        kind: Family, as in the registry; says which nano.
        path: ``nano``, a local Hugging Face folder, or a known hub id.

    Raises:
        PlanError: No such folder, and no known hub id.
    """
    folder = nano_folder(kind) if path == "nano" else Path(path).expanduser()
    if (folder / "config.json").is_file():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return Shape(path, f"{folder}/config.json", config, _preprocessing(folder))
    if path in _records():
        return published_shape(path)
    near = near_miss(path, _records())
    hint = f"did you mean {near}? " if near else ""
    raise PlanError(
        f"backbone.path={path}: no folder with a config.json and no known model; {hint}known are "
        f"{', '.join(published_names())}; for another one give a local folder that holds its config.json"
    )


def nano_folder(kind: str) -> Path:
    """The embedded nano of a family.

    Raises:
        PlanError: The family has none.
    """
    folder = Path(str(resources.files("spatialprior.backbones"))) / "nano" / kind
    if not (folder / "config.json").is_file():
        raise PlanError(
            f"backbone.kind={kind} has no embedded nano, whose tokenizer planning borrows"
        )
    return folder


def _preprocessing(folder: Path) -> dict[str, Any]:
    """What a local folder says about its images; empty where it holds its weights' config alone."""
    for name, key in (
        ("processor_config.json", "image_processor"),
        ("preprocessor_config.json", ""),
    ):
        if (folder / name).is_file():
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            values = values.get(key, {}) if key else values
            known = ("patch_size", "merge_size", "temporal_patch_size", "size", "crop_size")
            return {key: values[key] for key in known if key in values}
    return {}


@cache
def _records() -> dict[str, dict[str, Any]]:
    folder = Path(str(resources.files("spatialprior.plan"))) / "published"
    records = (
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    )
    return {record["name"]: record for record in records}
