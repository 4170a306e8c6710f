"""Checkpoints: safetensors and JSON only, written aside and renamed, so that a kill never leaves half of one.

A checkpoint holds everything that the next step depends on: trainable weights, optimiser moments, the
random state and the step. Which clips come next follows from the step alone.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

_PREFIX = "step-"
_ASIDE = ".writing-"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class CheckpointError(ValueError):
    """A checkpoint does not fit the run that wants to resume from it."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training run.

    Attributes:
        folder: Where they lie.
        recipe_hash: Identifies the settings; a checkpoint of other settings is refused.
        keep: How many of the latest to keep.
    """

    folder: Path
    recipe_hash: str
    keep: int = 2

    def save(self, step: int, model: nn.Module, optimizer: Optimizer) -> Path:
        """Write the state after ``step`` finished optimiser steps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{_PREFIX}{step:08d}"
        aside = self.folder / f"{_ASIDE}{target.name}-{os.getpid()}"
        for leftover in self.folder.glob(
            f"{_ASIDE}*"
        ):  # of processes that were killed while writing
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir()
        trainable = _trainable(model)
        save_file(
            {name: p.detach().contiguous() for name, p in trainable.items()},
            aside / "model.safetensors",
        )
        save_file(_optimizer_tensors(trainable, optimizer), aside / "optimizer.safetensors")
        save_file(_random_state(), aside / "random.safetensors")
        meta = {"step": step, "recipe_hash": self.recipe_hash}
        (aside / "state.json").write_text(json.dumps(meta))
        _sync(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        _sync_folder(self.folder)
        for old in self.complete()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.name.startswith(_PREFIX))

    def restore(self, model: nn.Module, optimizer: Optimizer) -> int:
        """Load the latest checkpoint; returns the number of finished steps (0 without one).

        Raises:
            CheckpointError: Its settings or its tensors differ from this run's.
        """
        saved = self.complete()
        if not saved:
            return 0
        latest = saved[-1]
        meta = json.loads((latest / "state.json").read_text())
        if meta["recipe_hash"] != self.recipe_hash:
            raise CheckpointError(
                f"{latest} was written with other settings (recipe hash {meta['recipe_hash']}, this run has "
                f"{self.recipe_hash}); resume with the run's own recipe.yaml or start a new run"
            )
        trainable = _trainable(model)
        weights = load_file(latest / "model.safetensors")
        if weights.keys() != trainable.keys():
            differ = sorted(weights.keys() ^ trainable.keys())
            raise CheckpointError(
                f"{latest} does not fit this model; first difference: {differ[0]}"
            )
        with torch.no_grad():
            for name, parameter in trainable.items():
                parameter.copy_(weights[name])
        _load_optimizer(trainable, optimizer, load_file(latest / "optimizer.safetensors"))
        _set_random_state(load_file(latest / "random.safetensors"))
        return int(meta["step"])


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _optimizer_tensors(named: dict[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": optimizer.state[p][key].detach().contiguous()
        for name, p in named.items()
        if p in optimizer.state
        for key in _MOMENTS
    }


def _load_optimizer(
    named: dict[str, nn.Parameter], optimizer: Optimizer, tensors: dict[str, Tensor]
) -> None:
    for name, p in named.items():
        if f"{name}/step" in tensors:
            state = {key: tensors[f"{name}/{key}"] for key in _MOMENTS}
            optimizer.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in state.items()}


def _random_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda-{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _set_random_state(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda-{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda-{i}"], i)


def _sync(folder: Path) -> None:
    """Push file contents to disk before the rename makes them visible."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
