"""A geometry expert on a Qwen2-VL-2B of random weights on a GPU, against the stock model: prefill and steps.

Eight views of 768 x 768 for the vision tower, fitted to 518 x 518 for DINOv2-L; expert and heads of the
published sizes. Prefill is in bfloat16, from the pixels and from kept DINO features; steps of either stage are
of one clip, with checkpointing, by AdamW, against plain SFT of the same backbone. Nothing is downloaded.
Figures go to ``benchmarks/results/g2vlm_gpu.json``.

    python benchmarks/g2vlm_gpu.py --out benchmarks/results/g2vlm_gpu.json
    python benchmarks/g2vlm_gpu.py --device cpu --tiny --views 2 --rounds 1   # to try

**Not run on a GPU as yet**: none could be had. The second line is what was tried.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paired
import torch
import transformers
from transformers import Dinov2WithRegistersConfig

from spatialprior.core.batch import ClipBatch
from spatialprior.data.stream import ClipStream
from spatialprior.model import SpatialModel
from spatialprior.plan.fake_model import processor_of
from spatialprior.plan.published import shape_of
from spatialprior.run.compose import compose_run
from spatialprior.run.schema import RunConfig
from spatialprior.testing import plane_clip
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.trainer import Trainer

WARM_UP = 2
PRIOR = "priors.geometry_expert"
SETTINGS = [
    "mode=plan",  # no path of data is asked for
    "recipe=g2vlm_baseline",
    "size=paper",
    "scale=1gpu",
    "scale.micro_batch=1",
    "trainer.clips_per_step=1",
    "trainer.instruction_share=0",
    "phases={}",
]
TINY = ["backbone.path=nano", "scale.device=cpu", "scale.mixed_precision=no"]
TINY_HEADS = [
    *(f"{PRIOR}.heads.{name}=16" for name in ("width", "point_width", "camera_width")),
    f"{PRIOR}.heads.blocks=1",
    f"{PRIOR}.heads.heads=2",
]
TRAININGS = {
    "SFT of the stock model": "prior=[]",
    "stage geometry": f"{PRIOR}.stage=geometry",
    "stage ce_only": f"{PRIOR}.stage=ce_only",
}


class Meter:
    """Median seconds and peak bytes of a call, and the bytes that were there before it."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.cuda, self.rounds = device.type == "cuda", rounds

    def __call__(self, work: Callable[[], Any]) -> dict[str, float]:
        resident = peak = 0
        seconds = []
        for turn in range(self.rounds + WARM_UP):
            if turn == WARM_UP and self.cuda:
                resident = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            work()
            if self.cuda:
                torch.cuda.synchronize()
                peak = torch.cuda.max_memory_allocated()
            seconds.append(time.perf_counter() - began)
        return {
            "milliseconds": 1e3 * float(np.median(seconds[WARM_UP:])),
            "peak_bytes": float(peak),
            "resident_bytes": float(resident),
        }


def dino(where: Path, tiny: bool) -> list[str]:
    """Settings of an encoder of random weights: DINOv2-L with registers, or the embedded one."""
    side, path = (32, "nano") if tiny else (518, str(where))
    if not tiny:
        Dinov2WithRegistersConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            patch_size=14,
            image_size=518,
            num_register_tokens=4,
        ).save_pretrained(where)
    own = {"path": path, "weights": "random", "size": f"[{side},{side}]"}
    own["dtype"] = "float32" if tiny else "bfloat16"
    values = [f"{PRIOR}.encoder.{name}={value}" for name, value in own.items()]
    return [*values, f"{PRIOR}.cache_gb=0"]


def random_model(run: RunConfig, device: torch.device) -> SpatialModel:
    """The recipe's backbone in its published shape and its priors, all weights drawn."""
    cls, settings = run.backbone.cls, run.backbone.settings
    shape = shape_of(cls, settings.path)
    processor = processor_of(cls, settings, shape)
    for name, value in shape_of(cls, "nano").config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(shape.config, name, value)  # the tokenizer is the nano's
    torch.manual_seed(0)
    shape.config._attn_implementation = settings.attention
    with device:
        torch.set_default_dtype(getattr(torch, settings.dtype))
        hf = cls.model_class(shape.config)
        torch.set_default_dtype(torch.float32)
    backbone = cls(hf, processor, settings)._prepared()
    priors = {name: prior.cls(prior.settings) for name, prior in run.priors.items()}
    return SpatialModel(backbone, priors, run.trainer.language_weight).to(device)


def prefill(run: RunConfig, side: int, views: int, meter: Meter, device: torch.device) -> Any:
    """The model over a question and its views, up to the first answer token's logits; and its tokens."""
    run.backbone.settings.dtype = "bfloat16" if device.type == "cuda" else "float32"
    clip = plane_clip(num_views=views, size=(side, side))
    model = random_model(run, device).eval()
    model.priors.to(getattr(torch, run.backbone.settings.dtype))
    backbone, reserve = model.backbone, model.backbone.reserve

    def encoded() -> ClipBatch:
        return backbone.encoder().prompts([clip]).to(device)

    @torch.no_grad()
    def answer(batch: ClipBatch, edits: Any) -> None:
        backbone.logits(backbone(batch, edits=edits).hidden[:, -1])

    # Without reserved tokens a pass is the stock one, bit for bit; the expert's weights are still there.
    backbone.reserve = None
    plain = encoded()
    found = {"stock": meter(lambda: answer(plain, {}))}
    backbone.reserve = reserve
    batch = encoded()
    kept = model.edits(model.prepare(batch))
    found["expert, from pixels"] = meter(lambda: answer(batch, model.edits(model.prepare(batch))))
    found["expert, features kept"] = meter(lambda: answer(batch, kept))
    # The encoder loads when first asked, behind the stock pass.
    own = sum(p.numel() * p.element_size() for p in model.priors.parameters())
    found["stock"]["peak_bytes"] = max(found["stock"]["peak_bytes"] - own, 0.0)
    assert batch.reserved is not None
    tokens = {
        "stock": plain.labels.shape[1],
        "with expert": batch.labels.shape[1],
        "geometry": int(batch.reserved.patches.sum()),
    }
    return found, {"tokens": tokens, "expert_bytes": own}


def step(run: RunConfig, side: int, views: int, meter: Meter, device: torch.device) -> Any:
    """A step of a training: forward, backward, AdamW."""
    model = random_model(run, device)
    if run.scale.gradient_checkpointing != "none":
        model.backbone.set_gradient_checkpointing(run.scale.gradient_checkpointing)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            ClipStream(None, None, 1),  # type: ignore[arg-type] # the clip is handed over as it is
            run.trainer,
            run.scale,
            make_accelerator(run.scale),
            Path(scratch),
            recipe_hash="",
        )
        engine, _ = trainer.engine()
        batch = model.backbone.encoder()([plane_clip(num_views=views, size=(side, side))])
        return meter(lambda: trainer._step([batch], engine))


def forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def text_table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Milliseconds and peak memory, each beside its ratio to the first of its group."""
    lines = [f"{'':44}{'ms':>10}{'ratio':>8}{'peak GiB':>10}{'ratio':>8}"]
    for group, sides in found.items():
        first = next(iter(sides.values()))
        for name, side in sides.items():
            columns = f"{side['milliseconds']:>10.1f}{_ratio(side, first, 'milliseconds'):>8.2f}"
            columns += (
                f"{side['peak_bytes'] / 2**30:>10.2f}{_ratio(side, first, 'peak_bytes'):>8.2f}"
            )
            lines.append(f"{group + ': ' + name:44}{columns}")
    return "\n".join(lines)


def _ratio(side: dict[str, float], first: dict[str, float], key: str) -> float:
    return side[key] / first[key] if first[key] else float("nan")


def cases_of(found: dict[str, dict[str, dict[str, float]]], cuda: bool) -> dict[str, Any]:
    """Each against the first of its group. The paper states no cost, so there is no target."""
    cases = {}
    for group, sides in found.items():
        (base, first), *rest = sides.items()
        for name, side in rest:
            for key in ("milliseconds", "peak_bytes") if cuda else ("milliseconds",):
                cases[f"{group}: {name} / {base}, {key}"] = {
                    "value": _ratio(side, first, key),
                    "unit": "",
                    "sides": {name: side[key], base: first[key]},
                    "target": "none",
                    "met": True,
                }
    return cases


def main(argv: list[str] | None = None) -> int:
    parser: argparse.ArgumentParser = paired.parser(__doc__, rounds=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="the nano twin, to try on a CPU")
    args = parser.parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    device = torch.device(args.device)
    side, meter = 64 if args.tiny else 768, Meter(device, args.rounds)
    common = [*SETTINGS, *(TINY if args.tiny else [])]
    with tempfile.TemporaryDirectory() as scratch:
        own = [*(TINY_HEADS if args.tiny else []), *dino(Path(scratch), args.tiny)]
        run = compose_run([*common, *own, f"{PRIOR}.stage=ce_only"])
        passes, setting = prefill(run, side, args.views, meter, device)
        forget(device)
        steps = {}
        for name, choice in TRAININGS.items():
            chosen = [] if choice == "prior=[]" else own
            run = compose_run([*common, *chosen, choice])
            steps[name] = step(run, side, args.views, meter, device)
            forget(device)
    found = {"prefill": passes, "step": steps}
    print(text_table(found))
    setting |= {"found": found, "views": args.views, "side": side, "tiny": args.tiny}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else args.device
    setting |= {"device": name, "transformers": transformers.__version__}
    return paired.finish("g2vlm_gpu", args, cases_of(found, device.type == "cuda"), setting)


if __name__ == "__main__":
    sys.exit(main())
