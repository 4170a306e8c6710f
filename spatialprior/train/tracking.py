"""Weights & Biases beside ``log.jsonl``, optional and safe without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol


class TrackingOptions(Protocol):
    """What the run's ``wandb`` section offers."""

    enabled: bool
    project: str
    mode: Literal["offline", "online"]


class TrackingError(ValueError):
    """wandb was asked for and is not installed."""


def open_tracker(options: TrackingOptions, folder: Path, name: str) -> Any:
    """A wandb run that writes below ``folder``, or ``None`` when tracking is off.

    Raises:
        TrackingError: wandb is not installed.
    """
    if not options.enabled:
        return None
    try:
        import wandb
    except ImportError:
        raise TrackingError("wandb.enabled=true, but wandb is missing: pip install wandb") from None
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=options.project, name=name, dir=folder, mode=options.mode, resume="allow"
    )
