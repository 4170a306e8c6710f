"""Wan's encoder stopped after a block against the whole run: the time saved over the time of what is skipped.

A stock WanTransformer3DModel with random weights, 12 blocks of width 256, four one-frame videos of 112 tokens
each, through the encoder's own code; it stops after the fourth block. What there is to save is measured beside
it: the eight skipped blocks alone, called in a loop. 1 is a stop that costs nothing.

    python benchmarks/early_exit.py [--out benchmarks/results/early_exit.json]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paired
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from spatialprior.features.wan_t2v import WanT2V

BLOCKS, LAYER, FRAMES, SIZE = 12, 3, 4, (128, 224)


def build(folder: Path) -> None:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        text_dim=64,
        ffn_dim=1024,
        num_layers=BLOCKS,
        rope_max_seq_len=64,
    )
    transformer.save_pretrained(folder / "transformer")
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(folder / "vae")


def works(folder: Path) -> dict[str, Callable[[], object]]:
    """The run that stops, the whole one, and the skipped blocks alone."""
    pixels, seeds = torch.rand(FRAMES, 3, *SIZE), list(range(FRAMES))
    encoders = {
        name: WanT2V(WanT2V.Config(path=str(folder), layer=LAYER, early_exit=name == "stopped"))
        for name in ("stopped", "whole")
    }
    modules = {name: encoder.module for name, encoder in encoders.items()}
    skipped: Any = modules["whole"].transformer.blocks[LAYER + 1 :]
    inputs: list[Any] = []
    handle = skipped[0].register_forward_pre_hook(lambda module, args: inputs.append(args))

    def run(name: str) -> torch.Tensor:
        return encoders[name].encode_pixels(modules[name], pixels, seeds)

    difference = (run("whole") - run("stopped")).abs().max()
    handle.remove()
    if difference != 0:
        raise RuntimeError(f"the features differ by {difference}")
    stream, *rest = inputs[0]

    def after() -> torch.Tensor:
        states = stream
        for block in skipped:
            states = block(states, *rest)
        return states

    return {
        "stopped": lambda: run("stopped"),
        "whole": lambda: run("whole"),
        "skipped": after,
    }


def main() -> int:
    args = paired.parser(__doc__, rounds=50).parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        build(Path(folder))
        found = paired.interleave(works(Path(folder)), args.rounds)
    wall, cpu = (
        {"saved": list(taken["whole"] - taken["stopped"]), "skipped": list(taken["skipped"])}
        for taken in (found.wall, found.cpu)
    )
    case = paired.Timings(wall, cpu).case("saved", "skipped", (">=", 0.9))
    cases = {f"time saved / skipped blocks, {BLOCKS - LAYER - 1} of {BLOCKS}": case}
    setting = {"width": 256, "frames": FRAMES, "size": list(SIZE), "last_block": LAYER}
    return paired.finish("early_exit", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
