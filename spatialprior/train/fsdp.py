"""Parameters, gradients and moments sharded over the processes: torch's ``fully_shard`` (FSDP2)."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.export import register_dataclass

from spatialprior.core.terms import LossTerm
from spatialprior.train.config import TrainerConfig
from spatialprior.train.engine import Engine
from spatialprior.train.optim import make_optimizer

# FSDP2 finds the tensors of an output through torch's tree functions, which must know our class.
register_dataclass(LossTerm)


class FullyShardedModelError(ValueError):
    """The model cannot be sharded as it is."""


class FullySharded(Engine):
    """FSDP2. Decoder layers, vision blocks and blocks of priors are units; the rest is gathered with the root.

    Gradients are reduced after every micro-batch: keeping them whole until the last one would take the memory
    that sharding is there to save.

    accelerate starts FSDP2 on accelerators only, so that nothing of it could be tested without one. This is
    the function that it calls, and the same code runs on gloo and NCCL.
    """

    def _distribute(self, config: TrainerConfig) -> None:
        self.model.set_lockstep(True)
        mesh = init_device_mesh(
            self.accelerator.device.type,
            (self.accelerator.num_processes,),
            mesh_dim_names=("shard",),
        )
        # Gradients are summed in float32 whatever the weights are; autocast decides what is computed in.
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        _check_dtypes(self.model)
        for block in self.model.blocks():
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(self.model, mesh=mesh, mp_policy=policy)
        self._module = self.model
        self.optimizer = make_optimizer(self.model, config)


def _check_dtypes(model: nn.Module) -> None:
    dtypes = sorted({str(p.dtype) for p in model.parameters() if p.requires_grad})
    if len(dtypes) > 1:
        raise FullyShardedModelError(
            f"FSDP2 wants trainable weights of one dtype, and this model has {', '.join(dtypes)}; "
            "use backbone.dtype=float32 with scale.mixed_precision=bf16, or backbone.lora"
        )
