"""AdamW groups by owner, and the learning-rate schedule."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW, Optimizer

from spatialprior.model import SpatialModel
from spatialprior.train.config import TrainerConfig


def make_optimizer(model: SpatialModel, config: TrainerConfig) -> AdamW:
    """AdamW over the trainable parameters: ``backbone`` and one owner per prior, matrices with weight decay.

    Each group remembers its owner and its peak rate (``owner``, ``peak_lr``), which the schedule scales.
    """
    groups = _by_decay(
        "backbone", _trainable(model.backbone), config.learning_rate, config.weight_decay
    )
    for name, prior in model.injectors.items():
        for group in prior.optim_groups(config.learning_rate):
            decay = group.get("weight_decay", config.weight_decay)
            groups += _by_decay(f"priors.{name}", list(group["params"]), group["lr"], decay)
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen and no prior adds any")
    first, second = config.betas
    return AdamW(groups, betas=(first, second))


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _by_decay(
    owner: str, params: list[nn.Parameter], lr: float, decay: float
) -> list[dict[str, object]]:
    matrices = [p for p in params if p.ndim >= 2]
    vectors = [p for p in params if p.ndim < 2]
    split = ((matrices, decay), (vectors, 0.0))
    return [
        {"params": part, "lr": lr, "peak_lr": lr, "weight_decay": wd, "owner": owner}
        for part, wd in split
        if part
    ]


def rate_factor(step: int, config: TrainerConfig) -> float:
    """Share of the peak rate at ``step`` (0-based): linear warm-up, then cosine to zero or constant."""
    warmup = max(1, round(config.warmup_fraction * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, config.steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """Put every group at ``factor`` of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
