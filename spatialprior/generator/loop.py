"""The training loop of both networks: a step's number decides what it sees, so resuming changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW
from tqdm import tqdm

from spatialprior.generator.config import GeneratorError, StageConfig
from spatialprior.train.config import TrainerConfig
from spatialprior.train.log import StepLog
from spatialprior.train.optim import rate_factor, set_rate

Losses = dict[str, Tensor]
"""Terms of one step by name; ``loss`` is what is minimised."""


def generator_of(*keys: object) -> torch.Generator:
    """Random numbers that depend on ``keys`` alone, the same in every process."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def draw(count: int, below: int, generator: torch.Generator) -> list[int]:
    """``count`` whole numbers in ``[0, below)``."""
    drawn: list[int] = torch.randint(below, (count,), generator=generator).tolist()
    return drawn


def train(
    model: nn.Module,
    losses: Callable[[int], Losses],
    stage: StageConfig,
    folder: Path,
    name: str,
    fingerprint: str,
    stop_after: int | None = None,
) -> bool:
    """Train ``model`` in place, from the checkpoint in ``folder`` where there is one.

    Args:
        model: Its trainable parameters are trained.
        losses: The terms of a step, 0-based.
        stage: The optimisation.
        folder: Holds ``NAME.safetensors`` (weights, moments, step) and ``NAME.log.jsonl``.
        name: Of the stage.
        fingerprint: Identifies the settings; a checkpoint of other settings is refused.
        stop_after: End once this many steps are done, with a checkpoint.

    Returns:
        Whether all steps are done.

    Raises:
        GeneratorError: The checkpoint is of other settings, or the loss is no longer finite.
    """
    named = dict(model.named_parameters())
    matrices = [p for p in named.values() if p.ndim >= 2]
    vectors = [p for p in named.values() if p.ndim < 2]
    rate = stage.learning_rate
    optimizer = AdamW(
        [
            {"params": matrices, "peak_lr": rate, "weight_decay": stage.weight_decay},
            {"params": vectors, "peak_lr": rate, "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.99),
    )
    schedule = TrainerConfig(steps=stage.steps, warmup_fraction=0.03)
    checkpoint = folder / f"{name}.safetensors"
    done = _restore(checkpoint, named, optimizer, fingerprint)
    log = StepLog(folder / f"{name}.log.jsonl", done)
    last = stage.steps if stop_after is None else min(stage.steps, stop_after)
    bar = tqdm(range(done, last), name, initial=done, total=stage.steps, unit="step")
    for step in bar:
        set_rate(optimizer, rate_factor(step, schedule))
        terms = losses(step)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(named.values(), stage.grad_clip)
        if not torch.isfinite(norm):
            raise GeneratorError(
                f"{name}: the gradient of step {step + 1} is not finite; lower learning_rate"
            )
        optimizer.step()
        values = {key: round(value.item(), 6) for key, value in terms.items()}
        log.write({"step": step + 1, **values, "grad_norm": round(float(norm), 6)})
        bar.set_postfix(loss=f"{values['loss']:.4f}")
        if (step + 1) % stage.checkpoint_every == 0 or step + 1 == last:
            _save(checkpoint, named, optimizer, step + 1, fingerprint)
    return last == stage.steps


def _save(
    path: Path, named: dict[str, nn.Parameter], optimizer: AdamW, step: int, fingerprint: str
) -> None:
    """Written aside and renamed: a kill never leaves half a checkpoint."""
    tensors = {f"weight/{name}": p.detach().contiguous() for name, p in named.items()}
    for name, parameter in named.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    save_file(tensors, aside, {"state": json.dumps({"step": step, "fingerprint": fingerprint})})
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)


def _restore(path: Path, named: dict[str, nn.Parameter], optimizer: AdamW, fingerprint: str) -> int:
    """Number of finished steps, 0 without a checkpoint."""
    if not path.exists():
        return 0
    state = json.loads(read_metadata(path)["state"])
    if state["fingerprint"] != fingerprint:
        raise GeneratorError(
            f"{path} was written with other settings; choose another --work folder"
        )
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[f"weight/{name}"])
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}/{name}" in tensors:
                    optimizer.state[parameter][key] = tensors[f"{key}/{name}"]
    return int(state["step"])


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
