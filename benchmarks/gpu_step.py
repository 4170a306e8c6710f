"""The paper's model on a GPU: a step with GASP and without, peak memory, MFU, and how far the plan was off.

Weights are random (nothing is downloaded): the stock class in its published shape, bfloat16, LoRA, gradient
checkpointing, one clip of eight frames of 448 x 448. Figures go to ``benchmarks/results/gpu_step.json``.

    python benchmarks/gpu_step.py --out benchmarks/results/gpu_step.json
    python benchmarks/gpu_step.py --device cpu --side 112 backbone.path=nano scale.mixed_precision=no  # to try

**Not run on a GPU as yet**: none could be had. The second line is what was tried.
"""

from __future__ import annotations

import gc
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import paired
import torch
import transformers

from spatialprior.data.stream import ClipStream
from spatialprior.model import SpatialModel
from spatialprior.plan.fake_model import processor_of
from spatialprior.plan.gpus import GPUS
from spatialprior.plan.planner import Plan, plan_run
from spatialprior.plan.published import shape_of
from spatialprior.run.compose import compose_run
from spatialprior.run.schema import RunConfig
from spatialprior.testing import plane_clip
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.trainer import Trainer

FRAMES = 8
SETTINGS = [
    "mode=plan",
    "recipe=gasp_qwen",
    "size=paper",
    "scale=1gpu",
    "scale.micro_batch=1",
    "trainer.clips_per_step=1",
    "trainer.instruction_share=0",
    "vqa.enabled=true",  # one question with an answer, as the clip below has
    "vqa.questions_per_clip=1",
    f"data.min_frames={FRAMES}",
    f"data.max_frames={FRAMES}",
]


def random_backbone(run: RunConfig, device: torch.device) -> Any:
    """The stock class in the shape that the recipe names, its weights drawn on ``device``."""
    cls, settings = run.backbone.cls, run.backbone.settings
    shape = shape_of(cls, settings.path)
    processor = processor_of(cls, settings, shape)
    for name in ("image_token_id", "video_token_id"):
        token = processor.image_token if name.startswith("image") else processor.video_token
        setattr(shape.config, name, processor.tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    with device:
        torch.set_default_dtype(getattr(torch, settings.dtype))
        hf = cls.model_class(shape.config)
        torch.set_default_dtype(torch.float32)
    return cls(hf, processor, settings)._prepared()


def measure(run: RunConfig, side: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a step and peak bytes on the device."""
    backbone = random_backbone(run, device)
    backbone.set_gradient_checkpointing(run.scale.gradient_checkpointing)
    priors = {name: prior.cls(prior.settings) for name, prior in run.priors.items()}
    clip = plane_clip(num_views=FRAMES, size=(side, side))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            SpatialModel(backbone.to(device), priors),
            ClipStream(None, None, 1),  # type: ignore[arg-type] # the clip is handed over as it is
            run.trainer,
            run.scale,
            make_accelerator(run.scale),
            Path(scratch),
            recipe_hash="",
        )
        engine, _ = trainer.engine()
        batch = backbone.encoder()([clip])
        seconds = []
        for _ in range(rounds + 2):
            began = time.perf_counter()
            trainer._step([batch], engine)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    del trainer, engine, backbone
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return {"seconds": float(np.median(seconds[2:])), "peak_bytes": float(peak)}


def figures(plan: Plan, measured: dict[str, float], peak_flops: float) -> dict[str, float]:
    done = plan.step.total_flops / measured["seconds"]
    return {
        **measured,
        "planned_flops": plan.step.total_flops,
        "planned_bytes": plan.total_memory,
        "mfu": done / peak_flops,
        "planned / measured memory": plan.total_memory / max(measured["peak_bytes"], 1.0),
    }


def main() -> int:
    parser = paired.parser(__doc__, rounds=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side", type=int, default=448, help="pixels of a frame's side")
    parser.add_argument("--gpu", default="h200", help="whose peak MFU refers to")
    parser.add_argument("overrides", nargs="*", help="as on the command line of a run")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    device = torch.device(args.device)
    found = {}
    on = [] if device.type == "cuda" else ["scale.device=cpu"]
    for name, prior in (("gasp", "prior=[gasp]"), ("none", "prior=[]")):
        run = compose_run([*SETTINGS, prior, f"data.max_side={args.side}", *on, *args.overrides])
        measured = measure(run, args.side, args.rounds, device)
        found[name] = figures(plan_run(run), measured, 1e12 * GPUS[args.gpu].tflops)
    ratios = {key: found["gasp"][key] / max(found["none"][key], 1e-9) for key in measured}
    cases = {
        f"gasp / none, {key}, {run.backbone.settings.path}": {
            "value": ratio,
            "unit": "",
            "sides": {name: found[name][key] for name in found},
            "target": "<= 1.1",
            "met": ratio <= 1.1,
        }
        for key, ratio in ratios.items()
    }
    setting = {"sides": found, "gpu": args.gpu, "transformers": transformers.__version__}
    return paired.finish("gpu_step", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
