"""How a step's gradients come about on the hardware at hand: one process, data parallel, or sharded.

The loop sees one interface. What it hands in and what it gets back are full tensors under the model's own
names, so that a checkpoint does not know how many processes wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spatialprior.core.batch import ClipBatch
from spatialprior.core.terms import LossTerm
from spatialprior.model import SpatialModel
from spatialprior.train.config import TrainerConfig
from spatialprior.train.optim import make_optimizer

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW remembers of a parameter."""


class Engine:
    """One process: forward, backward and update as they are.

    Attributes:
        model: The model under its own names.
        optimizer: AdamW over its trainable parameters.
    """

    def __init__(
        self, model: SpatialModel, config: TrainerConfig, accelerator: Accelerator
    ) -> None:
        self.model, self.accelerator = model, accelerator
        self.model.to(accelerator.device).train()
        self._distribute(config)

    def _distribute(self, config: TrainerConfig) -> None:
        self._module: Any = self.model
        self.optimizer: Any = make_optimizer(self.model, config)

    # --- a step ---------------------------------------------------------------------------

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch; gradients are exchanged in the ``last`` one only."""
        yield

    def forward(self, batch: ClipBatch, context: Mapping[str, Any]) -> list[LossTerm]:
        terms: list[LossTerm] = self._module(batch, context)
        return terms

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of ``loss``, this process's part of a sum over all of them."""
        # DDP and FSDP2 take the mean over processes.
        (loss * self.accelerator.num_processes).backward()

    def update(self, limit: float) -> float:
        """One optimiser step with the gradient scaled down to norm ``limit``; returns the norm before that.

        A gradient that is not finite changes nothing. It is gone afterwards in any case.
        """
        norm = float(whole(nn.utils.clip_grad_norm_(self.trainable().values(), limit)))
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def drop_untouched(self) -> None:
        """Forget gradients that are zero in every process, of backbone weights that no clip of the step met.

        A single process has none there, and AdamW leaves such weights alone. Priors always have a gradient.
        """
        touched = [p for p in self.model.backbone.parameters() if p.grad is not None]
        if self.accelerator.num_processes == 1 or not touched:
            return
        flags = torch.stack([_local(p.grad).any().float() for p in touched if p.grad is not None])
        for parameter, flag in zip(
            touched, self.accelerator.reduce(flags, "sum").tolist(), strict=True
        ):
            if not flag:
                parameter.grad = None

    # --- state ----------------------------------------------------------------------------

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def read(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """``value`` and, once updated, AdamW's moments, as full tensors. All processes call it at once."""
        state = self.optimizer.state.get(parameter, {})
        tensors = {"value": parameter.detach(), **{key: state[key] for key in MOMENTS if state}}
        return {key: whole(tensor) for key, tensor in tensors.items()}

    def write(self, parameter: nn.Parameter, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of :meth:`read`; keys that are absent stay as they are."""
        if "value" in tensors:
            with torch.no_grad():
                parameter.copy_(like(tensors["value"], parameter))
        if moments := {key: tensors[key] for key in MOMENTS if key in tensors}:
            self.optimizer.state[parameter] = {
                key: tensor if key == "step" else like(tensor, parameter)
                for key, tensor in moments.items()
            }


class DataParallel(Engine):
    """Several processes, each with all weights: torch's ``DistributedDataParallel``.

    Not through ``accelerator.prepare``, which would keep every arm's model alive until the run ends.
    """

    def _distribute(self, config: TrainerConfig) -> None:
        self.model.set_lockstep(True)
        device = self.accelerator.device
        on_gpu = device.type == "cuda"
        self._module = DistributedDataParallel(
            self.model, device_ids=[device.index] if on_gpu else None
        )
        self.optimizer = make_optimizer(self.model, config)
        # DDP waits for a gradient of every weight, also of those that no forward pass meets.
        self._spare = self.model.backbone.unmet()

    def backward(self, loss: Tensor) -> None:
        if self._spare:
            nothing = torch.stack([p.flatten()[:0].sum().float() for p in self._spare])
            loss = loss + nothing.sum()
        super().backward(loss)

    def update(self, limit: float) -> float:
        for parameter in self._spare:
            parameter.grad = None  # or weight decay would shrink them
        return super().update(limit)

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        with nullcontext() if last else self._module.no_sync():
            yield


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together again (all processes at once); others as they are."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def _local(tensor: Tensor) -> Tensor:
    part = getattr(tensor, "to_local", None)
    return tensor if part is None else part()


def like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """``tensor`` on the parameter's device, cut into its shards where it has any."""
    tensor = tensor.to(parameter.device)
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Every process holds the full tensor: each takes its own part, nothing is sent.
    placements = parameter.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)
