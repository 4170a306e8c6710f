"""What ``mode=plan`` says of the nano against what a real step of it takes, on one CPU core.

- FLOPs: the plan's over those that ``torch.utils.flop_counter.FlopCounterMode`` finds around a real step
  (forward and backward of all micro-batches, on rooms).
- Memory: the plan's over weights, moments and the largest batch, plus the peak of what torch's allocator
  handed out within the step (``torch.profiler``).

Neither depends on how busy the machine is, so there is one round, and no time is taken.

    python benchmarks/plan.py [--out benchmarks/results/plan.json] [settings of a run ...]
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import paired
import torch
import transformers

from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.model import SpatialModel
from spatialprior.plan.measured import Measured, measure_step
from spatialprior.plan.planner import plan_run
from spatialprior.run.compose import compose_run
from spatialprior.run.schema import RunConfig
from spatialprior.train.optim import make_optimizer

CASES = {
    "gasp": [],
    "sft": ["prior=[]"],
    "gasp, checkpointed": ["scale.gradient_checkpointing=nonreentrant"],
    "sft, checkpointed": ["prior=[]", "scale.gradient_checkpointing=nonreentrant"],
    "gasp, LoRA 8, six clips a pass": [
        "lora=rank_64",
        "backbone.lora.rank=8",
        "scale.micro_batch=6",
    ],
    "gasp, LLaVA-NeXT-Video": ["recipe=gasp_llava"],
    "gasp, Qwen3-VL": ["backbone=qwen3_vl"],
}
"""Name -> settings of the run."""

LIMIT = 0.15


def real_step(run: RunConfig) -> Measured:
    """A step of training on rooms."""
    torch.manual_seed(0)
    backbone = run.backbone.cls.load(run.backbone.settings)
    backbone.set_gradient_checkpointing(run.scale.gradient_checkpointing)
    priors = {name: prior.cls(prior.settings) for name, prior in run.priors.items()}
    model = SpatialModel(backbone, priors, run.trainer.language_weight).train()
    assert run.instruction is not None
    geometry, instruction = (
        source.cls(source.settings).split("train", 0) for source in (run.data, run.instruction)
    )
    stream = ClipStream(
        geometry, instruction, run.trainer.clips_per_step, run.trainer.instruction_share
    )
    batches = step_batches(
        stream, backbone.encoder(), first_step=0, steps=1, micro_batch=run.scale.micro_batch
    )
    return measure_step(model, make_optimizer(model, run.trainer), next(iter(batches)))


def case(planned: float, measured: float, unit: str) -> dict[str, Any]:
    """A ratio without spread: the same input takes the same every time."""
    ratio = planned / measured
    return {
        "value": ratio,
        "sides": {"planned": planned, "measured": measured},
        "unit": unit,
        "target": f"1 ± {LIMIT:g}",
        "met": abs(ratio - 1) <= LIMIT,
    }


def main() -> int:
    parser = paired.parser(__doc__, rounds=1)
    parser.add_argument("overrides", nargs="*", help="as on the command line of a run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in ("transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    cases: dict[str, Any] = {}
    rooms = ["data.train_rooms=24", "instruction.train_rooms=24"]
    for name, settings in CASES.items():
        run = compose_run(["mode=plan", *rooms, *settings, *args.overrides])
        plan, real = plan_run(run), real_step(run)
        cases[f"planned / measured FLOPs: {name}"] = case(
            plan.step.total_flops / 1e9, real.flops / 1e9, "GFLOP"
        )
        cases[f"planned / measured memory: {name}"] = case(
            plan.total_memory / 2**20, real.memory / 2**20, "MiB"
        )
    return paired.finish("plan", args, cases, {"transformers": transformers.__version__})


if __name__ == "__main__":
    sys.exit(main())
