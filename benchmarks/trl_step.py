"""One optimiser step without priors: this package's trainer against TRL's ``SFTTrainer``.

Same nano Qwen2.5-VL, same encoded batches, same AdamW, rate and clipping, float32, no gradient checkpointing,
one log line a step. TRL runs its own ``train()`` in a thread that halts between steps, so that the two can take
turns; its data collator hands over the batch that our encoder made, so that encoding is on neither side.

TRL is no dependency of this package: ``pip install trl`` first.

    python benchmarks/trl_step.py [--rounds 40] [--threads 1] [--out benchmarks/results/trl_step.json]
"""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import paired
import torch
import transformers
import trl
from datasets import Dataset
from train_step import load, trainer_loop
from transformers import AutoProcessor, TrainerCallback

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.batch import ClipBatch
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.data.stream import ClipStream
from spatialprior.run.compose import compose_run
from spatialprior.run.schema import RunConfig


class TrlLoop(TrainerCallback):
    """TRL's trainer, one step at a call."""

    def __init__(self, run: RunConfig, batches: list[ClipBatch], steps: int, out: Path) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        config = trl.SFTConfig(
            output_dir=str(out),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=len(batches[0].clips),
            max_steps=steps,
            learning_rate=run.trainer.learning_rate,
            weight_decay=run.trainer.weight_decay,
            adam_beta1=run.trainer.betas[0],
            adam_beta2=run.trainer.betas[1],
            max_grad_norm=run.trainer.grad_clip,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        size = len(batches[0].clips)
        rows = Dataset.from_dict({"images": [[]] * size, "batch": list(range(size))})
        self.taken = 0

        def collate(_: list[Any]) -> dict[str, torch.Tensor]:
            self.taken += 1
            batch = batches[self.taken % len(batches)]
            return {**batch.inputs, "labels": batch.labels}

        self.trainer = trl.SFTTrainer(
            model=load("nano").hf.train(),
            args=config,
            train_dataset=rows,
            data_collator=collate,
            processing_class=AutoProcessor.from_pretrained(Qwen2_5VL.nano_folder()),
            callbacks=[self],
        )
        threading.Thread(target=self.trainer.train, daemon=True).start()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.go.acquire()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.done.release()

    def step(self) -> None:
        self.go.release()
        self.done.acquire()


def main() -> int:
    args = paired.parser(__doc__, rounds=40).parse_args()
    torch.set_num_threads(args.threads)
    for name in ("transformers", "accelerate", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    run = compose_run(["recipe=sft_qwen", "scale=cpu"])
    size, warm_up = 4, 3
    clips = Rooms(Rooms.Config(train_rooms=16, questions_per_clip=1)).split("train", 0)
    encoder = load("nano").encoder()
    batches = [encoder([clips.clip(i * size + k) for k in range(size)]) for i in range(8)]
    with tempfile.TemporaryDirectory() as scratch:
        theirs = TrlLoop(run, batches, args.rounds + warm_up + 1, Path(scratch) / "trl")
        stream = ClipStream(clips, None, size)
        ours = trainer_loop("nano", run, stream, Path(scratch) / "ours", priors=False)
        taken = 0

        def step() -> None:
            nonlocal taken
            taken += 1
            ours(batches[taken % len(batches)])

        works = {"trl": theirs.step, "spatialprior": step}
        timings = paired.interleave(works, args.rounds, warm_up)
    cases = {"spatialprior / TRL, no prior": timings.case("spatialprior", "trl", ("<=", 1.0))}
    setting = {
        "clips": size,
        "tokens": int(batches[0].labels.shape[1]),
        "trl": trl.__version__,
        "transformers": transformers.__version__,
    }
    return paired.finish("trl_step", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
