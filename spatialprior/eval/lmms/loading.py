"""The model that a folder holds: one of our exports, or a plain Hugging Face checkpoint of a family we know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spatialprior.core.backbone import Backbone
from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.export import MANIFEST, load_model
from spatialprior.registry import BACKBONES, suggest


def load_backbone(
    folder: Path,
    device: torch.device | str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> Backbone:
    """The model in ``folder``, in evaluation mode, with the priors that an export keeps.

    Args:
        folder: An export, or a plain checkpoint, such as the one that a training started from.
        device: Where to put it.
        settings: Of the backbone, for a plain checkpoint: an export brings its own.

    Raises:
        LmmsError: It is neither.
        ExportError: An export is not what its manifest says.
    """
    if (folder / MANIFEST).exists():
        return load_model(folder, device).backbone
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError):
        raise LmmsError(
            f"{folder} is neither an export ({MANIFEST}) nor a checkpoint (config.json); "
            "set pretrained=FOLDER to what export wrote"
        ) from None
    if kind not in BACKBONES.names():
        raise LmmsError(
            f"{folder} holds a {kind}, which is no backbone here; {suggest(kind, BACKBONES.names())}"
        )
    cls: Any = BACKBONES.get(kind)
    backbone: Backbone = cls.load(cls.Config(path=str(folder), **(settings or {})))
    return backbone.eval().to(device)


def settings_of(export: Path) -> dict[str, Any]:
    """The backbone's settings as an export records them; empty for a plain checkpoint."""
    path = export / MANIFEST
    if not path.exists():
        return {}
    about = json.loads(path.read_text(encoding="utf-8")).get("backbone") or {}
    return dict(about.get("settings", {}))
