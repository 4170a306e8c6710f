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


_READ = ("patch_size", "merge_size", "temporal_patch_size", "size", "crop_size")
"""What of a folder's preprocessing decides how many tokens a picture becomes."""


@dataclass(frozen=True)
class Shape:
    """Everything that planning knows of a model.

    Attributes:
        name: Hub id or folder.
        source: Where its numbers come from.
        config: The Hugging Face config.
        processor: Settings of its processor, those of its image and video processor nested; empty for the nano.
        parameters: Published number of parameters, or ``None``.
        exact: Whether that number is exact, rather than rounded to three digits.
    """

    name: str
    source: str
    config: PreTrainedConfig
    processor: dict[str, Any] = field(default_factory=dict)
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


def shape_of(cls: Any, path: str) -> Shape:
    """Shape of the model that a recipe's ``backbone.path`` means.

    Args:
        cls: The backbone's class; says which nano.
        path: ``nano``, a local Hugging Face folder, or a known hub id.

    Raises:
        PlanError: No such folder, and no known hub id.
    """
    folder = cls.nano_folder() if path == "nano" else Path(path).expanduser()
    if (folder / "config.json").is_file():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return Shape(
            path, f"{folder}/config.json", config, {} if path == "nano" else _preprocessing(folder)
        )
    if path in _records():
        return published_shape(path)
    near = near_miss(path, _records())
    hint = f"did you mean {near}? " if near else ""
    raise PlanError(
        f"backbone.path={path}: no folder with a config.json and no known model; {hint}known are "
        f"{', '.join(published_names())}; for another one give a local folder that holds its config.json"
    )


def _preprocessing(folder: Path) -> dict[str, Any]:
    """What a local folder says about its pictures; empty where it holds the model's config alone."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            nested = values if name.startswith("processor") else {"image_processor": values}
            return {
                key: {name: inner[name] for name in _READ if name in inner}
                for key in ("image_processor", "video_processor")
                if isinstance(inner := nested.get(key), dict)
            }
    return {}


@cache
def _records() -> dict[str, dict[str, Any]]:
    folder = Path(str(resources.files("spatialprior.plan"))) / "published"
    records = (
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    )
    return {record["name"]: record for record in records}
