"""Forks scorings, so that they begin at once: ``reply_worker.py EXPORT``, a JSON line of jobs on stdin.

A job is ``[out, rank, count]``. Printed are the children's numbers, and when all have ended how.
"""

import json
import os
import sys
from pathlib import Path

import torch
from engine_material import WORK, Album

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.eval.evaluator import evaluate
from spatialprior.eval.workers import Workers


def work(out: str, rank: int, count: int) -> None:
    evaluate(
        Path(sys.argv[1]),
        Album(**WORK),
        backbone=Qwen2_5VL,
        settings=Qwen2_5VL.Config(),
        out=Path(out),
        workers=Workers(rank, count),
    )


torch.set_num_threads(1)
for line in sys.stdin:
    children = []
    for job in json.loads(line):
        child = os.fork()
        if not child:
            code = 1
            try:
                work(*job)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    print(json.dumps(children), flush=True)
    print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)
