"""A Wan2.1-1.3B of random weights on a GPU: what a frame's features cost, and what each saving is worth.

Milliseconds a frame to block 20 with early exit and without, the VAE's share, peak memory, and the same with
every attention kernel that is installed (torch's own, flash-attn, xformers). Shapes are the published ones;
nothing is downloaded. Figures go to ``benchmarks/results/vega3d_gpu.json``.

    python benchmarks/vega3d_gpu.py --out benchmarks/results/vega3d_gpu.json
    python benchmarks/vega3d_gpu.py --device cpu --tiny --frames 4 --rounds 3   # to try

**Not run on a GPU as yet**: none could be had. The second line is what was tried.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paired
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from spatialprior.features.wan_t2v import WanT2V, WanT2VConfig

PUBLISHED = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
}
TINY = {
    **PUBLISHED,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "ffn_dim": 128,
    "text_dim": 64,
}
KERNELS = {
    "native": "torch's scaled_dot_product_attention",
    "flash": "flash-attn",
    "xformers": "xformers",
}


def folder(where: Path, tiny: bool) -> Path:
    """Configurations alone: weights are drawn."""
    with torch.device("meta"):
        WanTransformer3DModel(**(TINY if tiny else PUBLISHED)).save_config(where / "transformer")
        AutoencoderKLWan(**({"base_dim": 8} if tiny else {})).save_config(where / "vae")
    return where


class Clock:
    """Seconds and peak bytes of a call, on either kind of device."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def __call__(self, work: Callable[[], Any]) -> tuple[float, int]:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        work()
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began, torch.cuda.max_memory_allocated() if self.cuda else 0


def measure(
    encoders: dict[str, WanT2V], images: torch.Tensor, rounds: int, clock: Clock
) -> dict[str, Any]:
    """Milliseconds a frame of each encoder and of the VAE alone, taking turns; peak bytes."""
    first = next(iter(encoders.values()))
    sides: dict[str, Callable[[], Any]] = {
        name: lambda e=e: e(images) for name, e in encoders.items()
    }
    pixels = torch.rand(first.config.batch, 3, *first.config.size, device=first.device) * 2 - 1

    @torch.no_grad()
    def vae() -> None:
        for _ in range(0, len(images), first.config.batch):
            first.latents(first.module.vae, pixels)

    sides["vae"] = vae
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0)
    for turn in range(rounds + 1):
        for name, work in sides.items():
            took, peak = clock(work)
            peaks[name] = max(peaks[name], peak)
            if turn:  # the first turn warms up
                seconds[name].append(took)
    return {
        name: {"ms_a_frame": 1e3 * float(np.median(times)) / len(images), "peak_bytes": peaks[name]}
        for name, times in seconds.items()
    }


def main() -> int:
    parser = paired.parser(__doc__, rounds=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument(
        "--tiny", action="store_true", help="a small Wan and small frames, to try on a CPU"
    )
    args = parser.parse_args()
    device, clock = torch.device(args.device), Clock(torch.device(args.device))
    size = (64, 96) if args.tiny else (480, 832)
    images = torch.randint(0, 256, (args.frames, 3, *size), dtype=torch.uint8)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = str(folder(Path(scratch), args.tiny))
        encoders = {
            name: WanT2V(
                WanT2VConfig(
                    path=path,
                    weights="random",
                    dtype=args.dtype,
                    size=size,
                    batch=8,
                    early_exit=early,
                )
            )
            for name, early in (("early exit", True), ("all blocks", False))
        }
        for encoder in encoders.values():
            encoder.to(device)
            width = encoder.module.prompt.shape[-1]
            # As long as the real empty prompt is: its padding costs cross-attention.
            encoder.module.prompt = torch.zeros(
                1, 512, width, dtype=encoder.module.prompt.dtype, device=device
            )
        for kernel, words in KERNELS.items():
            try:
                for encoder in encoders.values():
                    encoder.module.transformer.set_attention_backend(kernel)
                found[kernel] = measure(encoders, images, args.rounds, clock)
            except (ImportError, RuntimeError, ValueError) as error:
                found[kernel] = {"not run": f"{words}: {' '.join(str(error).split())[:160]}"}
    own = found["native"]
    early, whole = own["early exit"]["ms_a_frame"], own["all blocks"]["ms_a_frame"]
    vae = own["vae"]["ms_a_frame"]
    ideal = (whole - vae) * 9 / 30  # blocks 21 to 29 of 30 are skipped
    saved = (whole - early) / ideal
    cases = {
        "Wan 1.3B, saved by early exit / ideal": {
            "value": saved,
            "unit": "",
            "sides": {"early exit": early, "all blocks": whole},
            "target": ">= 0.9",
            "met": saved >= 0.9,
        }
    }
    print(json.dumps(found, indent=1))
    return paired.finish(
        "vega3d_gpu", args, cases, {"kernels": found, "vae_share": vae / early, "size": list(size)}
    )


if __name__ == "__main__":
    sys.exit(main())
