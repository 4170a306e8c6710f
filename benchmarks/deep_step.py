"""GASP on every layer of a 28-layer Qwen2.5-VL: step time and peak memory against the same step without it.

The paper's settings, narrower: LoRA of rank 128 on the decoder, gradient checkpointing, heads of width 128 on
all 28 layers, both anchor grids, all frame pairs; width 768 (7B: 3,584), three frames of 16 x 16 tokens. A
head's cost grows with the width and a layer's with its square, so the ratio at 7B is smaller. Random weights.

Memory: each side runs two steps in a process of its own, and its peak resident memory is read.

    python benchmarks/deep_step.py [--rounds 6] [--threads 2] [--out benchmarks/results/deep_step.json]
"""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import paired
import torch
import transformers
from transformers import Qwen2_5_VLForConditionalGeneration

from spatialprior.backbones.lora import LoraOptions, inject
from spatialprior.backbones.nano import qwen2_5_vl_nano as nano
from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.data.stream import ClipStream
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.trainer import Trainer

LAYERS, WIDTH, SIDES = 28, 768, ("gasp", "none")


def backbone() -> Qwen2_5VL:
    processor = nano.processor()
    config = nano.config(processor.tokenizer)
    text = config.text_config
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = LAYERS, WIDTH, 2112
    text.num_attention_heads, text.num_key_value_heads = 12, 2
    text.layer_types = [text.layer_types[0]] * LAYERS
    text.rope_parameters["mrope_section"] = [8, 12, 12]
    text.initializer_range = 0.02
    config.vision_config.out_hidden_size = WIDTH
    torch.manual_seed(0)
    return Qwen2_5VL(Qwen2_5_VLForConditionalGeneration(config), processor)


def step_of(side: str, folder: Path) -> Callable[[], object]:
    """The trainer's step on one clip, with GASP or without."""
    model = backbone()
    inject(model.hf, model.decoder_layers, LoraOptions(rank=128, alpha=256))
    model.set_gradient_checkpointing("nonreentrant")
    clips = Rooms(Rooms.Config(train_rooms=4, questions_per_clip=8)).split("train", 0)
    priors = {"gasp": Gasp(Gasp.Config())} if side == "gasp" else {}
    scale = ScaleConfig(device="cpu", micro_batch=1)
    config = TrainerConfig(clips_per_step=1)
    stream = ClipStream(clips, None, 1)
    trainer = Trainer(
        SpatialModel(model, priors),
        stream,
        config,
        scale,
        make_accelerator(scale),
        folder,
        recipe_hash="",
    )
    engine, _ = trainer.engine()
    batch = model.encoder()([clips.clip(0)])
    return lambda: trainer._step([batch], engine)


def peak(side: str) -> int:
    """Peak resident bytes of a process that does two steps of ``side``."""
    command = [sys.executable, __file__, "--side", side]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    parser = paired.parser(__doc__, rounds=6)
    parser.set_defaults(threads=2)
    parser.add_argument("--side", choices=SIDES, help="two steps of one side; prints peak bytes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in ("transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        if args.side:
            step = step_of(args.side, Path(scratch))
            for _ in range(2):
                step()
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            return 0
        # First of all: a process starts with the peak of the one that made it.
        memory = {side: peak(side) / 2**20 for side in SIDES}
        steps = {side: step_of(side, Path(scratch) / side) for side in SIDES}
        timings = paired.interleave(steps, args.rounds, warm_up=1)
    cases = {
        "gasp / none, 28 layers, step": timings.case("gasp", "none", ("<=", 1.1)),
        "gasp / none, 28 layers, peak memory": paired.measured(memory, "MiB", ("<=", 1.1)),
    }
    setting = {
        "layers": LAYERS,
        "width": WIDTH,
        "frames": 3,
        "tokens_a_frame": 256,
        "transformers": transformers.__version__,
    }
    return paired.finish("deep_step", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
