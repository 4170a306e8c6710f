"""Answering with the evaluation engine against one question at a time, on an exported nano.

Clips of the embedded rooms with six questions each. ``packed`` shares one pass over a clip's images among its
questions; ``one`` is plain Hugging Face generation, a sequence at a time. Both are greedy and give the same
replies, as does plain generation of 16 sequences together, which is checked. Reading views is left out.

    python benchmarks/eval_engine.py [--rounds 20] [--threads 1] [--out benchmarks/results/eval_engine.json]
"""

from __future__ import annotations

import logging
import sys
import tempfile
from functools import partial
from pathlib import Path

import paired
import torch
import transformers

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.eval.answering import Generation, answer
from spatialprior.eval.batches import Batch, batches
from spatialprior.eval.benchmark import Engine
from spatialprior.eval.evaluator import load_exported
from spatialprior.eval.media_cache import MediaCache
from spatialprior.eval.rooms_questions import RoomsQuestions
from spatialprior.export import export_model
from spatialprior.model import SpatialModel

CLIPS, QUESTIONS, TOKENS = 4, 6, 4


def main() -> int:
    args = paired.parser(__doc__, rounds=20).parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = Qwen2_5VL.Config(path="nano")
    with tempfile.TemporaryDirectory() as folder:
        export = Path(folder) / "export"
        export_model(SpatialModel(Qwen2_5VL.load(settings), {}), export, recipe_hash="benchmark")
        model = load_exported(export, Qwen2_5VL, settings)
    config = RoomsQuestions.Config(clips=CLIPS, questions_per_clip=QUESTIONS)
    items = list(RoomsQuestions(config, Rooms(Rooms.Config(train_rooms=16))).items())
    views, generate = MediaCache(0).load(items), Generation(model, TOKENS)

    def replies(every: list[Batch]) -> dict[str, str]:
        found = [pair for batch in every for pair in answer(generate, batch, views, {})]
        return {item.item_id: reply.text for item, reply in found}

    def together(engine: Engine) -> list[Batch]:
        return batches(items, config.batch, engine)

    packed, one = together("packed"), [Batch(((item,),)) for item in items]
    expected = replies(one)
    same = replies(packed) == expected == replies(together("generate"))
    timings = paired.interleave(
        {"packed": partial(replies, packed), "one": partial(replies, one)}, args.rounds, warm_up=1
    )
    cases = {"replies: one at a time / packed": timings.case("one", "packed", (">=", 2))}
    setting = {
        "clips": CLIPS,
        "questions_per_clip": QUESTIONS,
        "views": sum(clip.num_views for clip in views.values() if not hasattr(clip, "message")),
        "max_new_tokens": TOKENS,
        "batch": config.batch,
        "same_replies": same,
        "transformers": transformers.__version__,
    }
    return paired.finish("eval_engine", args, cases, setting) or int(not same)


if __name__ == "__main__":
    sys.exit(main())
