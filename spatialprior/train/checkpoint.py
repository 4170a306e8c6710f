"""Checkpoints: safetensors and JSON only, written aside and renamed, so that a kill never leaves half of one.

A checkpoint holds everything that the next step depends on: trainable weights, optimiser moments and the
step. Which clips come next, and what is drawn at random, follows from the step alone. Tensors are whole, so a
run may go on with another number of processes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spatialprior.train.engine import MOMENTS, Engine

_PREFIX = "step-"
_ASIDE = ".writing-"
_WEIGHTS = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"


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

    def save(self, step: int, engine: Engine) -> None:
        """Write the state after ``step`` finished steps. All processes call it, the first one writes."""
        weights: dict[str, Tensor] = {}
        moments: dict[str, Tensor] = {}
        for name, parameter in engine.trainable().items():
            whole = engine.read(parameter)
            if engine.accelerator.is_main_process:
                tensors = {key: tensor.cpu() for key, tensor in whole.items()}
                weights[name] = tensors.pop("value").contiguous()
                moments |= {f"{name}/{key}": t.contiguous() for key, t in tensors.items()}
        if engine.accelerator.is_main_process:
            self._write(step, weights, moments)

    def _write(self, step: int, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{_PREFIX}{step:08d}"
        aside = self.folder / f"{_ASIDE}{target.name}-{os.getpid()}"
        # Those of processes that were killed while writing.
        for leftover in self.folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir()
        save_file(weights, aside / _WEIGHTS)
        save_file(moments, aside / _OPTIMIZER)
        meta = {"step": step, "recipe_hash": self.recipe_hash}
        (aside / "state.json").write_text(json.dumps(meta))
        _sync(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        _sync_folder(self.folder)
        for old in self.complete()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def complete(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.name.startswith(_PREFIX))

    def restore(self, engine: Engine) -> int:
        """Load the latest checkpoint; returns the number of finished steps (0 without one).

        Raises:
            CheckpointError: Its settings or its tensors differ from this run's.
        """
        # The first process decides: a network file system may show the others an older state.
        box = [self._latest()]
        if engine.accelerator.num_processes > 1:
            broadcast_object_list(box)
        if box[0] is None:
            return 0
        latest, step = box[0]
        trainable = engine.trainable()
        with _opened(latest / _WEIGHTS, trainable, latest) as weights:
            moments = load_file(latest / _OPTIMIZER)
            for name, parameter in trainable.items():
                own = {
                    key: moments[f"{name}/{key}"] for key in MOMENTS if f"{name}/step" in moments
                }
                engine.write(parameter, {"value": weights.get_tensor(name), **own})
        return step

    def load_weights(self, model: nn.Module) -> None:
        """Only the weights of the latest checkpoint, into a model that is not distributed."""
        if (found := self._latest()) is None:
            raise CheckpointError(f"{self.folder} holds no checkpoint")
        latest, _ = found
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with _opened(latest / _WEIGHTS, trainable, latest) as weights, torch.no_grad():
            for name, parameter in trainable.items():
                parameter.copy_(weights.get_tensor(name))

    def _latest(self) -> tuple[Path, int] | None:
        """The latest complete checkpoint and the number of steps behind it."""
        saved = self.complete()
        if not saved:
            return None
        meta = json.loads((saved[-1] / "state.json").read_text())
        if meta["recipe_hash"] != self.recipe_hash:
            raise CheckpointError(
                f"{saved[-1]} was written with other settings (recipe hash {meta['recipe_hash']}, this run has "
                f"{self.recipe_hash}); resume with the run's own recipe.yaml or start a new run"
            )
        return saved[-1], int(meta["step"])


@contextmanager
def _opened(path: Path, trainable: Mapping[str, object], checkpoint: Path) -> Iterator[Any]:
    """A safetensors file that holds exactly the ``trainable`` names."""
    with safe_open(path, framework="pt") as tensors:
        if differ := sorted(set(tensors.keys()) ^ trainable.keys()):
            raise CheckpointError(
                f"{checkpoint} does not fit this model; first difference: {differ[0]}"
            )
        yield tensors


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
