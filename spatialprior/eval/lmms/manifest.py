"""What lmms-eval finds under the entry point group ``lmms_eval.models``."""

from __future__ import annotations

from typing import Any

_HERE = "spatialprior.eval.lmms"


def export() -> Any:
    """``--model spatialprior``: an export of ours."""
    return _manifest("spatialprior", f"{_HERE}.model.SpatialPriorLmms")


def replay() -> Any:
    """``--model spatialprior_replay``: stored replies."""
    return _manifest("spatialprior_replay", f"{_HERE}.replay.ReplayLmms")


def _manifest(name: str, path: str) -> Any:
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=name, chat_class_path=path)
