"""The same nano export scored by lmms-eval and by us: equal scores, and how many items a second.

Data in the layouts of VSI-Bench (several questions about each video) and BLINK (pictures within Parquet files),
made by code. The nano learns for a moment to answer in letters and numbers, right and wrong, so that scores are
not all 0, and is exported. Then take turns, in one process:

- ``lmms-eval``: its own ``qwen2_5_vl`` on the plain export, one question at a time (its default);
- ``lmms-eval, batches``: the same with our batch size;
- ``bridge``: our model under lmms-eval;
- ``ours``: our evaluator, under the benchmark's ``lmms_eval`` protocol.

Seconds are those of answering (reading media, the model, decoding); loading and scoring are on neither side.
So that lmms-eval's own model computes the same: it runs in float32 (it reads weights as bfloat16, which
those of the export are rounded to), qwen_vl_utils is told of patches of 8 pixels (it takes all for 14), and
videos have two frames a second (our encoders take all for that).

Needs lmms-eval and, for its own model, decord (which its requirements lack): docs/lmms-eval.md.

    python benchmarks/lmms_parity.py [--rounds 5] [--out benchmarks/results/lmms_parity.json]
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import paired
import torch

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.eval.evaluator import evaluate
from spatialprior.eval.lmms.model import SpatialPriorLmms
from spatialprior.eval.lmms.run import LmmsResult, simple_evaluate
from spatialprior.eval.lmms.tasks import LocalTasks, local_tasks
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.export import export_model
from spatialprior.model import SpatialModel
from spatialprior.registry import BENCHMARKS

BATCH = 16
FRAMES = {"vsi_bench": "video", "blink": "images"}
"""How views go in: as lmms-eval's own model takes them."""

SIDE = 8 * 8 * 8 * 8, 128 * 128  # least and most pixels of the nano's processor
SAID = ("A", "B", "C", "D", "B.", "(A)", "3", "three", "2 images", "five", "1.5", "no")


class Timed:
    """A model of lmms-eval whose answering is timed.

    ``clean`` would free the weights after each run; it is kept, so that a turn does not load them again.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.seconds = model, 0.0
        self._answer = model.generate_until
        model.generate_until = self._timed
        model.clean = lambda: None

    def _timed(self, requests: Any) -> Any:
        began = time.perf_counter()
        replies = self._answer(requests)
        self.seconds = time.perf_counter() - began
        return replies


def teach(benchmark: PublishedBenchmark, folder: Path, frames: str, steps: int) -> None:
    """Export a nano that has learnt some answer to each question, often the right one."""
    torch.manual_seed(0)
    draw = random.Random(0)
    backbone = Qwen2_5VL.load(Qwen2_5VL.Config(frames=frames))
    clips = []
    for _, group in groupby(benchmark.items(), key=lambda item: item.clip.clip_id):
        items = list(group)
        asked = []
        for item in items:
            right = item.question.answer.strip("()")
            answer = right if draw.random() < 0.5 else draw.choice(SAID)
            asked.append(replace(item.question, answer=answer))
        clips.append(items[0].clip.load().with_questions(tuple(asked)))
    encoder = backbone.encoder()
    batches = [encoder(clips[i : i + 4]) for i in range(0, len(clips), 4)]
    optimiser = torch.optim.AdamW(backbone.parameters(), lr=2e-3, weight_decay=0.0)
    backbone.train()
    for step in range(steps):
        batch = batches[step % len(batches)]
        logits = backbone.logits(backbone(batch).hidden)[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch.labels[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimiser.step()
    backbone.eval()
    with torch.no_grad():  # lmms-eval's own model reads weights as bfloat16
        for weight in backbone.parameters():
            weight.copy_(weight.bfloat16())
    export_model(SpatialModel(backbone, {}), folder, recipe_hash="lmms_parity")


def native(export: Path, batch: int) -> Any:
    """lmms-eval's own model on the export."""
    os.environ.setdefault("FORCE_QWENVL_VIDEO_READER", "decord")  # torchcodec may lack its FFmpeg
    import qwen_vl_utils
    from lmms_eval.models.chat import qwen2_5_vl

    # 4 pixels times its merge of 2: the nano's patch of 8, merged by 1.
    qwen2_5_vl.process_vision_info = functools.partial(
        qwen_vl_utils.process_vision_info, image_patch_size=4
    )
    model = qwen2_5_vl.Qwen2_5_VL(
        pretrained=str(export),
        device="cpu",
        device_map="cpu",
        batch_size=batch,
        min_pixels=SIDE[0],
        max_pixels=SIDE[1],
    )
    model._model.float()
    return model


def sides(
    benchmark: PublishedBenchmark, tasks: LocalTasks, export: Path, work: Path
) -> dict[str, Callable[[], tuple[float, dict[str, tuple[str, float | None]]]]]:
    """Name -> one run: seconds of answering, and document -> reply and score."""
    models = {
        "lmms-eval": Timed(native(export, 1)),
        "lmms-eval, batches": Timed(native(export, BATCH)),
        "bridge": Timed(SpatialPriorLmms(export, batch_size=BATCH, device="cpu")),
    }
    turns = iter(range(10**6))
    records = {name: record.get("id", record.get("idx")) for name, record in benchmark.records}

    def theirs(timed: Timed) -> tuple[float, dict[str, tuple[str, float | None]]]:
        return (lambda result: (timed.seconds, by_document(result)))(
            simple_evaluate(timed.model, tasks)
        )

    def ours() -> tuple[float, dict[str, tuple[str, float | None]]]:
        out = work / f"{benchmark.name}-{next(turns)}"
        settings = Qwen2_5VL.Config(frames=FRAMES[benchmark.name])
        result = evaluate(export, benchmark, backbone=Qwen2_5VL, settings=settings, out=out)
        return result.seconds, {
            str(records[row["id"]]): (row["reply"], row["score"]) for row in result.replies
        }

    return {
        **{name: functools.partial(theirs, timed) for name, timed in models.items()},
        "ours": ours,
    }


def by_document(result: LmmsResult) -> dict[str, tuple[str, float | None]]:
    """Our name of each document -> reply and score."""
    found = {}
    for item in result.items:
        name = item.document.get("id", item.document.get("idx", item.doc_id))
        found[str(name)] = (item.reply, item.score)
    return found


def take_turns(
    works: Mapping[str, Callable[[], tuple[float, Any]]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every round but a first, and what each side found; the order rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    found: dict[str, Any] = {}
    names = list(works)
    for number in range(-1, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            took, found[name] = works[name]()
            if number >= 0:
                seconds[name].append(took)
    return seconds, found


def agreement(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """How many items agree in reply and in score."""
    if a.keys() != b.keys():
        raise SystemExit(f"not the same items: {sorted(a.keys() ^ b.keys())[:4]}")
    scores = [a[name][1] == b[name][1] for name in a]
    return {
        "items": len(a),
        "equal replies": sum(a[name][0] == b[name][0] for name in a),
        "equal scores": sum(scores),
        "mean scores": [sum(side[name][1] or 0.0 for name in side) / len(side) for side in (a, b)],
        "longest reply": max(len(value[0]) for value in b.values()),
        "different scores": len(dict.fromkeys(value[1] for value in a.values())),
    }


def speed(
    over: Sequence[float], under: Sequence[float], items: int, target: float | None
) -> dict[str, Any]:
    """Items a second of ``under`` as a multiple of those of ``over``, round by round."""
    ratio = np.array(over) / np.array(under)
    median = float(np.median(ratio))
    return {
        "ratio": paired._spread(ratio),
        "least and most": [float(ratio.min()), float(ratio.max())],
        "items a second": [items / float(np.median(side)) for side in (over, under)],
        "target": "none" if target is None else f">= {target:g}",
        "met": target is None or median >= target,
    }


def rows(cases: Mapping[str, Any]) -> Iterator[str]:
    """The report in lines."""
    for name, case in cases.items():
        if "ratio" in case:
            low, high = case["least and most"]
            ratio = f"{case['ratio']['median']:.2f} ({low:.2f} to {high:.2f})"
            yield f"{name}: {ratio} times as many items a second"
        else:
            yes = "yes" if case["met"] else "NO"
            yield f"{name}: equal scores {yes} ({case['equal scores']} of {case['items']} items)"


def main() -> int:
    arguments = paired.parser(__doc__, rounds=5)
    arguments.add_argument("--scenes", type=int, default=4)
    arguments.add_argument("--items", type=int, default=8, help="of each BLINK task")
    arguments.add_argument("--steps", type=int, default=150, help="of teaching the nano")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        cases, setting = run(args, Path(folder))
    print("\n".join(rows(cases)), file=sys.stderr)
    return paired.finish("lmms_parity", args, cases, setting)


def run(args: argparse.Namespace, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """All cases, and what they were measured on."""
    data = work / "data"
    counts = {
        "vsi_bench": layouts.vsi_bench(data, scenes=args.scenes),
        "blink": layouts.blink(data, items=args.items),
    }
    # The official layout has the videos beside the questions, lmms-eval below HF_HOME.
    (data / "VSI-Bench" / "scannet").symlink_to(data / "vsibench" / "scannet")
    roots = {"vsi_bench": data / "VSI-Bench", "blink": data / "BLINK"}
    names = {
        "vsi_bench": ["vsibench"],
        "blink": [f"blink_{t.lower().replace('-', '_')}" for t in layouts.BLINK],
    }
    benchmarks = {}
    for name, root in roots.items():
        cls: Any = BENCHMARKS.get(name)
        benchmarks[name] = cls(
            cls.Config(root=str(root), protocol="lmms_eval", batch=BATCH, check_counts=False)
        )
    cases: dict[str, Any] = {}
    for name, benchmark in benchmarks.items():
        export = work / name
        teach(benchmark, export, FRAMES[name], args.steps)
        tasks = local_tasks(names[name], data, work / "tasks" / name)
        seconds, found = take_turns(sides(benchmark, tasks, export, work), args.rounds)
        for side in ("bridge", "lmms-eval", "lmms-eval, batches"):
            agreed = agreement(found[side], found["ours"])
            met = agreed["equal scores"] == agreed["items"]
            cases[f"{name}: {side} and ours"] = {**agreed, "met": met}
        for side, target in (("lmms-eval", 1.5), ("lmms-eval, batches", None)):
            cases[f"{name}: ours against {side}"] = speed(
                seconds[side], seconds["ours"], counts[name], target
            )
    setting = {
        "items": counts,
        "batch": BATCH,
        "versions": {
            each: metadata.version(each)
            for each in ("lmms-eval", "transformers", "torch", "decord")
        },
        "model": "nano Qwen2.5-VL, float32, taught for a moment",
    }
    return cases, setting


if __name__ == "__main__":
    sys.exit(main())
