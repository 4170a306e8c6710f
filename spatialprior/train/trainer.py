"""The training loop: forward, backward, clip, step, log, checkpoint."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim import AdamW
from tqdm import tqdm

from spatialprior.core.batch import ClipBatch
from spatialprior.core.terms import LossTerm, NonFiniteLossError, check_finite, total_loss
from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.model import SpatialModel
from spatialprior.train.checkpoint import Checkpoints
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.log import StepLog
from spatialprior.train.optim import make_optimizer, rate_factor, set_rate


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves.

    Attributes:
        steps: Optimiser steps of the whole run.
        seconds: Wall-clock time of this process's share (a resumed run counts from its resume).
        resumed_from: Finished steps found in a checkpoint.
    """

    steps: int
    seconds: float
    resumed_from: int


class Trainer:
    """Trains a :class:`SpatialModel` on a :class:`ClipStream`.

    Args:
        model: Backbone and priors.
        stream: Which clips each step takes.
        config, scale: The optimisation, and the hardware.
        accelerator: From :func:`~spatialprior.train.accelerator.make_accelerator`.
        folder: Receives ``log.jsonl`` and ``checkpoints/``.
        recipe_hash: Stored in checkpoints; resuming with another one is refused.
        label: Name in the progress bar.
        tracker: Optional wandb run.
    """

    def __init__(
        self,
        model: SpatialModel,
        stream: ClipStream,
        config: TrainerConfig,
        scale: ScaleConfig,
        accelerator: Accelerator,
        folder: Path,
        *,
        recipe_hash: str,
        label: str = "train",
        tracker: Any = None,
    ) -> None:
        self.model, self.stream, self.config, self.scale = model, stream, config, scale
        self.accelerator, self.folder, self.label, self.tracker = (
            accelerator,
            folder,
            label,
            tracker,
        )
        self.checkpoints = Checkpoints(folder / "checkpoints", recipe_hash)

    def run(self, on_step: Callable[[int], None] | None = None) -> TrainingResult:
        """Train to the end, from the latest checkpoint if there is one.

        Args:
            on_step: Called with the number of finished steps after each one.

        Raises:
            MissingClipFieldError: A prior needs a field that the geometry clips do not carry.
            NonFiniteLossError: A loss term, or the gradient, is NaN or infinite.
        """
        config = self.config
        encoder = self.model.backbone.encoder()
        if self.model.injectors:
            self.model.check_fields(encoder([self.stream.geometry.clip(0)]))
        optimizer, first = self.restore()
        log = StepLog(self.folder / "log.jsonl", first, self.tracker)
        batches = step_batches(
            self.stream,
            encoder,
            first_step=first,
            steps=config.steps,
            micro_batch=self.scale.micro_batch,
            num_workers=config.num_workers,
        )
        started = time.perf_counter()
        bar = tqdm(
            batches,
            total=config.steps,
            initial=first,
            desc=self.label,
            unit="step",
            mininterval=0.5,
        )
        for step, micro_batches in enumerate(bar, start=first):
            set_rate(optimizer, rate_factor(step, config))
            tick = time.perf_counter()
            means, norm = self._step(micro_batches, optimizer)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                log.write(self._line(done, means, norm, optimizer, time.perf_counter() - tick))
            bar.set_postfix({name: f"{raw:.3f}" for name, (raw, _) in means.items()}, refresh=False)
            if done == config.steps or (
                config.checkpoint_every and done % config.checkpoint_every == 0
            ):
                self.checkpoints.save(done, self.model, optimizer)
            if on_step is not None:
                on_step(done)
        return TrainingResult(config.steps, time.perf_counter() - started, first)

    def restore(self) -> tuple[AdamW, int]:
        """The model from its latest checkpoint (as it is without one), its optimiser and the finished steps."""
        self.model.to(self.accelerator.device).train()
        optimizer = make_optimizer(self.model, self.config)
        return optimizer, self.checkpoints.restore(self.model, optimizer)

    def _step(
        self, micro_batches: list[ClipBatch], optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, tuple[float, float]], float]:
        """One optimiser step; returns each term's (raw mean, weighted mean) and the gradient norm."""
        device = self.accelerator.device
        batches = [batch.to(device) for batch in micro_batches]
        contexts = [self.model.prepare(batch) for batch in batches]
        counts: dict[str, float] = {}
        for batch, context in zip(batches, contexts, strict=True):
            for name, n in self.model.counts(batch, context).items():
                counts[name] = counts.get(name, 0.0) + n
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        for batch, context in zip(batches, contexts, strict=True):
            with self.accelerator.autocast():
                terms: list[LossTerm] = self.model(batch, context)
            if not terms:
                continue
            check_finite(terms, batch.clip_ids)
            self.accelerator.backward(total_loss(terms, counts))
            for term in terms:
                sums[term.name] = sums.get(term.name, 0.0) + float(term.sum.detach())
                weights[term.name] = term.weight
        norm = 0.0
        if sums:
            trainable = [p for p in self.model.parameters() if p.requires_grad]
            limit = self.config.grad_clip or float("inf")
            norm = float(self.accelerator.clip_grad_norm_(trainable, limit))
            if not math.isfinite(norm):
                clips = ", ".join(name for batch in batches for name in batch.clip_ids)
                raise NonFiniteLossError(
                    f"the gradient norm is {norm}, though every loss term is finite, on clips {clips}; "
                    "lower the learning rate, or look at these clips"
                )
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        raw = {name: total / max(counts[name], 1.0) for name, total in sums.items()}
        return {name: (mean, mean * weights[name]) for name, mean in raw.items()}, norm

    def _line(
        self,
        step: int,
        means: dict[str, tuple[float, float]],
        norm: float,
        optimizer: torch.optim.Optimizer,
        seconds: float,
    ) -> dict[str, Any]:
        rates = {group["owner"]: group["lr"] for group in optimizer.param_groups}
        return {
            "step": step,
            "loss": sum(weighted for _, weighted in means.values()),
            **{f"raw/{name}": raw for name, (raw, _) in means.items()},
            **{f"weighted/{name}": weighted for name, (_, weighted) in means.items()},
            **{f"lr/{owner}": rate for owner, rate in rates.items()},
            "grad_norm": norm,
            "seconds": seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
