"""The result card of one of a run's scorings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spatialprior.eval.benchmark import Benchmark
from spatialprior.eval.cards.card import CARD
from spatialprior.eval.cards.make import Circumstances, write_card
from spatialprior.eval.evaluator import EvalResult
from spatialprior.run.environment import commit, hardware
from spatialprior.run.schema import RunConfig

_ORIGIN = ("kind", "path", "revision")


def result_card(
    result: EvalResult,
    benchmark: Benchmark,
    arm: str,
    export: Path,
    out: Path,
    config: RunConfig,
    folder: Path,
    device: torch.device,
    devices: int = 1,
) -> dict[str, Any]:
    """Write the card into ``out``, beside the arm's replies; what of it the report shows, and where it lies.

    Args:
        result: A scoring whose replies are in ``out``.
        benchmark: What was asked.
        arm: Who answered: its name, and in ``export`` its model.
        export: See ``arm``.
        out: Below ``folder``.
        config: Of the run.
        folder: Of the run.
        device: What answered.
        devices: How many of them.
    """
    backbone = config.backbone.to_dict()
    about = Circumstances(
        recipe=config.recipe,
        folder=folder.resolve().name,
        arm=arm,
        seed=config.seed,
        base={name: backbone[name] for name in _ORIGIN if name in backbone},
        commit=commit(),
        hardware=hardware(device),
        devices=devices,
    )
    card = write_card(result, benchmark, export, out, about)
    return {**card.summary(), "file": str((out / CARD).relative_to(folder))}
