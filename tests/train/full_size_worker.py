"""FSDP2 around a model of full size: shapes without weights, one of eight fake processes.

``full_size_worker.py SETTINGS...`` prints parameters of the model, and of this process's share.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from spatialprior.model import SpatialModel
from spatialprior.plan.published import shape_of
from spatialprior.run.compose import compose_run
from spatialprior.train import fsdp


def main() -> None:
    dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    config = compose_run([*sys.argv[1:], "size=paper", "scale=8gpu_fsdp2", "mode=plan"])
    cls, settings = config.backbone.cls, config.backbone.settings
    backbone = cls.on_meta(shape_of(cls, settings.path).config, settings)
    backbone.set_lockstep = lambda on: None  # blank images need a processor
    with torch.device("meta"):
        priors = {name: prior.cls(prior.settings) for name, prior in config.priors.items()}
        model = SpatialModel(backbone, priors)
    whole = sum(p.numel() for p in model.parameters())
    # There is no mesh of meta devices; no tensor has content, so that any will do.
    fsdp.init_device_mesh = lambda _, shape, **names: init_device_mesh("cpu", shape, **names)
    accelerator = SimpleNamespace(device=torch.device("meta"), num_processes=8)
    fsdp.FullySharded(model, config.trainer, accelerator)
    print(whole, sum(p.to_local().numel() for p in model.parameters()))


if __name__ == "__main__":
    main()
