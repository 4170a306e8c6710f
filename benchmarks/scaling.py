"""Weak scaling of the training step: two processes (DDP, gloo) with twice the clips against one with its own.

One thread a process. Two things are reported: a step's time of one process alone over that of two together,
and the same where the other process is busy with an independent training. On a machine whose two cores share
memory, caches or a physical core the second is what two processes *could* reach; only the rest is ours.

    python benchmarks/scaling.py [--rounds 5] [--out benchmarks/results/scaling.json]
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import paired
import torch
from train_step import load

from spatialprior.data.rooms.dataset import Rooms
from spatialprior.data.stream import ClipStream
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.run.compose import compose_run
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.log import read_log
from spatialprior.train.trainer import Trainer

CLIPS, STEPS, WARM_UP = 4, 16, 4


def worker(folder: Path) -> None:
    """One process of a training; the first of a group leaves the log."""
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = compose_run(["recipe=gasp_qwen"]).priors["gasp"].settings
    scale = ScaleConfig(device="cpu", micro_batch=CLIPS)
    accelerator = make_accelerator(scale)
    clips = CLIPS * accelerator.num_processes
    config = TrainerConfig(steps=STEPS, clips_per_step=clips, checkpoint_every=0)
    rooms = Rooms(Rooms.Config(train_rooms=16, questions_per_clip=8)).split("train", 0)
    model = SpatialModel(load("nano"), {"gasp": Gasp(settings)})
    stream = ClipStream(rooms, None, clips)
    Trainer(model, stream, config, scale, accelerator, folder, recipe_hash="").run()


def start(folder: Path, processes: int) -> list[subprocess.Popen[bytes]]:
    """Start a training of ``processes`` that exchange gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = []
    for rank in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "ACCELERATE_USE_CPU": "true",
            }
        command = [sys.executable, __file__, "--worker", str(folder)]
        group.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
    return group


def seconds(folder: Path) -> float:
    """Median step of a log, the first few left out."""
    lines = list(read_log(folder / "log.jsonl"))
    return float(np.median([line["seconds"] for line in lines[WARM_UP:]]))


def main() -> int:
    parser = paired.parser(__doc__, rounds=5)
    parser.add_argument(
        "--worker", type=Path, help="run one process of a training, logging to here"
    )
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return 0
    taken: dict[str, list[float]] = {"one": [], "beside": [], "two": []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(args.rounds):
            base = Path(scratch) / str(number)
            jobs = {
                "one": [(base / "one", 1)],
                "beside": [(base / "beside", 1), (base / "other", 1)],
                "two": [(base / "two", 2)],
            }
            for name, trainings in jobs.items():
                running = [p for folder, n in trainings for p in start(folder, n)]
                if any([process.wait() for process in running]):
                    raise RuntimeError(f"a process of {name!r} failed")
                taken[name].append(seconds(base / name))
    timings = paired.Timings(taken, taken)
    cases = {
        "two processes, share of ideal": timings.case("one", "two", (">=", 0.85)),
        "two processes, share of two that run apart": timings.case("beside", "two", (">=", 0.85)),
    }
    setting = {"clips_a_process": CLIPS, "steps": STEPS, "size": "nano", "engine": "DDP, gloo"}
    return paired.finish("scaling", args, json.loads(json.dumps(cases)), setting)


if __name__ == "__main__":
    sys.exit(main())
