"""One optimiser step of the trainer: against a bare PyTorch loop, and with GASP against without.

All sides take the same encoded clips, one after the other, with the same AdamW, rate and clipping.

- ``trainer / bare``: the trainer's step without priors (move, losses by term, finiteness check, gradient norm,
  log line on disk) over stock ``model(**inputs, labels=...).loss.backward()`` and nothing else.
- ``gasp / none``: the trainer's step with GASP on every layer, ground-truth matches included, over the same
  without priors.

Each is measured with one question a clip and with several that share their views (there the bare loop is
handed the packed mask and positions, which stock training code would not have).

    python benchmarks/train_step.py [--rounds 40] [--threads 1] [--out benchmarks/results/train_step.json]
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paired
import torch
import transformers

from spatialprior.backbones.branches import branch_mask
from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.batch import ClipBatch
from spatialprior.core.injector import PriorInjector
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.data.stream import ClipStream
from spatialprior.model import SpatialModel
from spatialprior.run.compose import compose_run
from spatialprior.run.schema import RunConfig
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.config import TrainerConfig
from spatialprior.train.log import StepLog
from spatialprior.train.optim import set_rate
from spatialprior.train.trainer import Trainer

Step = Callable[[ClipBatch], None]


def bare_loop(folder: str, config: TrainerConfig) -> Step:
    """What a script without this package would do with the stock class."""
    backbone = load(folder)  # for the packed questions' positions; otherwise `hf` alone is used
    hf = backbone.hf.train()
    matrices = [p for p in hf.parameters() if p.ndim >= 2]
    vectors = [p for p in hf.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )

    def step(batch: ClipBatch) -> None:
        inputs = dict(batch.inputs)
        if batch.branches is not None:
            inputs["attention_mask"] = branch_mask(batch.branches, hf.dtype)
            inputs["position_ids"] = backbone.position_ids(batch)
        hf(**inputs, labels=batch.labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def trainer_loop(
    folder: str, run: RunConfig, stream: ClipStream, out: Path, *, priors: bool
) -> Step:
    """The body of the trainer's loop: everything that it does in a step, but for loading clips."""
    attached: dict[str, PriorInjector] = {}
    if priors:
        attached = {name: prior.cls(prior.settings) for name, prior in run.priors.items()}
    model = SpatialModel(load(folder), attached, run.trainer.language_weight)
    accelerator = make_accelerator(run.scale)
    trainer = Trainer(model, stream, run.trainer, run.scale, accelerator, out, recipe_hash="")
    engine, _ = trainer.engine()
    log = StepLog(out / "log.jsonl")
    steps = 0

    def step(batch: ClipBatch) -> None:
        nonlocal steps
        steps += 1
        set_rate(engine.optimizer, 1.0)
        means, norm = trainer._step([batch], engine)
        log.write(trainer._line(steps, means, norm, engine.optimizer, 0.0))

    return step


def load(folder: str) -> Qwen2_5VL:
    torch.manual_seed(0)
    return Qwen2_5VL.load(Qwen2_5VL.Config(path=folder))


def measure(
    folder: str, run: RunConfig, questions: int, rounds: int, out: Path
) -> dict[str, dict[str, Any]]:
    """Both ratios with ``questions`` questions a clip."""
    size = run.trainer.clips_per_step
    clips = Rooms(Rooms.Config(train_rooms=16, questions_per_clip=questions)).split("train", 0)
    encoder = load(folder).encoder()
    batches = [encoder([clips.clip(i * size + k) for k in range(size)]) for i in range(8)]
    stream = ClipStream(clips, None, size)
    steps: dict[str, Step] = {
        "bare": bare_loop(folder, run.trainer),
        "none": trainer_loop(folder, run, stream, out / "none", priors=False),
        "gasp": trainer_loop(folder, run, stream, out / "gasp", priors=True),
    }
    taken = dict.fromkeys(steps, 0)

    def work(name: str) -> None:
        taken[name] += 1
        steps[name](batches[taken[name] % len(batches)])  # the same batch for all sides of a round

    timings = paired.interleave({name: lambda n=name: work(n) for name in steps}, rounds)
    label = f"{questions} question{'s' * (questions > 1)} a clip"
    return {
        f"trainer / bare, {label}": timings.case("none", "bare", ("<=", 1.05)),
        f"gasp / none, {label}": timings.case("gasp", "none", ("<=", 1.15)),
    }


def main() -> int:
    parser = paired.parser(__doc__, rounds=40)
    parser.add_argument("--questions", default="1,8", help="questions a clip, several to try")
    parser.add_argument("--folder", default="nano", help="another checkpoint than the nano base")
    parser.add_argument("overrides", nargs="*", help="as on the command line of a run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in ("transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    run = compose_run(["recipe=gasp_qwen", "scale=cpu", *args.overrides])
    with tempfile.TemporaryDirectory() as scratch:
        cases: dict[str, Any] = {}
        for questions in map(int, args.questions.split(",")):
            out = Path(scratch) / f"questions-{questions}"
            cases |= measure(args.folder, run, questions, args.rounds, out)
    setting = {
        "clips_per_step": run.trainer.clips_per_step,
        "gasp": run.priors["gasp"].to_dict(),
        "transformers": transformers.__version__,
    }
    return paired.finish("train_step", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
