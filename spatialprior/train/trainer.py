"""The training loop: forward, backward, clip, step, log, checkpoint."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from spatialprior.core.batch import ClipBatch
from spatialprior.core.terms import NonFiniteLossError, check_finite, total_loss
from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.model import LANGUAGE_TERM, SpatialModel
from spatialprior.train.accelerator import make_engine
from spatialprior.train.checkpoint import Checkpoints
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.engine import Engine
from spatialprior.train.log import StepLog
from spatialprior.train.optim import rate_factor, set_rate

CHECKPOINTS = "checkpoints"
"""Below a training's folder."""


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
        seed: Seeds what is drawn at random during training (dropout), with the step and the process.
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
        seed: int = 0,
        label: str = "train",
        tracker: Any = None,
    ) -> None:
        self.model, self.stream, self.config, self.scale = model, stream, config, scale
        self.accelerator, self.folder, self.seed = accelerator, folder, seed
        self.label, self.tracker = label, tracker
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, recipe_hash)

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
        engine, first = self.engine()
        main = self.accelerator.is_main_process
        log = StepLog(self.folder / "log.jsonl", first, self.tracker) if main else None
        batches = step_batches(
            self.stream,
            encoder,
            first_step=first,
            steps=config.steps,
            micro_batch=self.scale.micro_batch,
            max_tokens=self.scale.max_tokens,
            num_workers=config.num_workers,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )
        started = time.perf_counter()
        bar = tqdm(
            batches,
            total=config.steps,
            initial=first,
            desc=self.label,
            unit="step",
            mininterval=0.5,
            disable=not main,
        )
        for step, micro_batches in enumerate(bar, start=first):
            set_rate(engine.optimizer, rate_factor(step, config))
            self._seed(step)
            tick = time.perf_counter()
            means, norm = self._step(micro_batches, engine)
            done = step + 1
            if log and (done % config.log_every == 0 or done == config.steps):
                log.write(
                    self._line(done, means, norm, engine.optimizer, time.perf_counter() - tick)
                )
            bar.set_postfix({name: f"{raw:.3f}" for name, (raw, _) in means.items()}, refresh=False)
            if done == config.steps or (
                config.checkpoint_every and done % config.checkpoint_every == 0
            ):
                self.checkpoints.save(done, engine)
            if on_step is not None:
                on_step(done)
        return TrainingResult(config.steps, time.perf_counter() - started, first)

    def engine(self) -> tuple[Engine, int]:
        """The engine in the state of the latest checkpoint, where there is one, and the finished steps."""
        engine = make_engine(self.model, self.config, self.scale, self.accelerator)
        return engine, self.checkpoints.restore(engine)

    def _seed(self, step: int) -> None:
        """Random numbers of a step depend on the step alone, so that a resumed run draws the same."""
        entropy = [self.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _step(
        self, micro_batches: list[ClipBatch], engine: Engine
    ) -> tuple[dict[str, tuple[float, float]], float]:
        """One optimiser step; returns each term's (raw mean, weighted mean) and the gradient norm."""
        device = self.accelerator.device
        contexts = [self.model.prepare(batch.to(device)) for batch in micro_batches]
        passes = self._most(len(micro_batches))
        counts: dict[str, float] = {}
        live = {str(i): 0.0 for i in range(passes)} | {"images": 0.0}
        for i, (batch, context) in enumerate(zip(micro_batches, contexts, strict=True)):
            for name, n in self.model.counts(batch, context).items():
                counts[name] = counts.get(name, 0.0) + n
            live[str(i)] = float(bool(self.model.injectors) or batch.has_labels)
            live["images"] += float(batch.token_map.valid.any())
        counts, live = self._over_processes(counts), self._over_processes(live)
        alive = [i for i in range(passes) if live[str(i)]]
        sums = dict.fromkeys(counts, 0.0)
        weights: dict[str, float] = {}
        for i in alive:
            # A process with fewer passes than another goes along with its last one, which counts nothing.
            own = min(i, len(micro_batches) - 1)
            batch = micro_batches[own]
            with engine.micro_batch(last=i == alive[-1]):
                with self.accelerator.autocast():
                    terms = engine.forward(batch.to(device), contexts[own])
                check_finite(terms, batch.clip_ids)
                loss = total_loss(terms, counts)
                engine.backward(loss if own == i else 0 * loss)
            for term in terms:
                sums[term.name] += float(term.sum.detach()) if own == i else 0.0
                weights[term.name] = term.weight
        norm = 0.0
        if alive:
            if not (counts[LANGUAGE_TERM] and live["images"]):
                engine.drop_untouched()
            norm = engine.update(self.config.grad_clip or float("inf"))
            if not math.isfinite(norm):
                clips = ", ".join(name for batch in micro_batches for name in batch.clip_ids)
                raise NonFiniteLossError(
                    f"the gradient norm is {norm}, though every loss term is finite, on clips {clips}; "
                    "lower the learning rate, or look at these clips"
                )
        sums = self._over_processes(sums)
        raw = {name: sums[name] / max(counts[name], 1.0) for name in weights}
        return {name: (mean, mean * weights[name]) for name, mean in raw.items()}, norm

    def _most(self, number: int) -> int:
        """The largest ``number`` of all processes."""
        if self.accelerator.num_processes == 1 or not self.scale.max_tokens:
            return number
        return int(
            self.accelerator.gather(torch.tensor([number], device=self.accelerator.device)).max()
        )

    def _over_processes(self, numbers: dict[str, float]) -> dict[str, float]:
        """Sums over all processes, which must come with the same names in the same order."""
        if self.accelerator.num_processes == 1 or not numbers:
            return numbers
        values = torch.tensor(list(numbers.values()), dtype=torch.float64)
        total = self.accelerator.reduce(values.to(self.accelerator.device), "sum").tolist()
        return dict(zip(numbers, total, strict=True))

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
