"""Probing every decoder layer against one plain forward pass over the same encoded batch.

The probe's side is what a probed batch costs beyond encoding it: the forward pass, true matches of the
anchors on the CPU, every layer's queries against keys, and the scores. Encoding is the same on both sides and
left out.

    python benchmarks/probe.py [--rounds 40] [--threads 1] [--out benchmarks/results/probe.json]
"""

from __future__ import annotations

import logging
import sys

import paired
import torch
import transformers

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.batch import ClipBatch
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.probe import inference, score_batch


def main() -> int:
    args = paired.parser(__doc__, rounds=40).parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = ProbeConfig()
    rooms = Rooms(Rooms.Config(train_rooms=16, questions_per_clip=0)).split("train", 0)
    clips = [rooms.clip(i) for i in range(config.batch_clips)]
    backbone = Qwen2_5VL.load(Qwen2_5VL.Config(path="nano"))
    batch = backbone.encoder()(clips)

    def encoded(_: object) -> ClipBatch:
        return batch

    with inference(backbone):
        timings = paired.interleave(
            {
                "probe": lambda: score_batch(backbone, encoded, clips, config),
                "forward": lambda: backbone(batch),
            },
            args.rounds,
        )
    cases = {"probe / forward": timings.case("probe", "forward", ("<=", 1.3))}
    setting = {
        "clips": len(clips),
        "layers": backbone.num_layers,
        "probe": config.settings(),
        "transformers": transformers.__version__,
    }
    return paired.finish("probe", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
