"""Peak memory of the language loss: logits of every position against answer-only logits, forward and backward.

A vocabulary of 152k, 4,096 tokens. Each side runs in a process of its own, whose resident memory is read
before and at its peak. Twice: 128 answer tokens, and a label on every token (where only the chunks help).

    python benchmarks/answer_ce.py [--out benchmarks/results/answer_ce.json]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import paired
import torch
import torch.nn.functional as F

from spatialprior.objectives.language import CHUNK, answer_cross_entropy

VOCABULARY, TOKENS, WIDTH = 152_064, 4096, 64


def peak(side: str, labelled: int) -> int:
    """Bytes above the start that the loss of one side takes, in this process."""
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).requires_grad_(False)  # as under LoRA
    hidden = torch.randn(1, TOKENS, WIDTH, requires_grad=True)
    labels = torch.full((1, TOKENS), -100)
    labels[:, -labelled:] = torch.randint(VOCABULARY, (labelled,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "full":
        logits = head(hidden).float()
        loss = F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
    else:
        total, count = answer_cross_entropy(hidden, labels, head)
        loss = total / count
    loss.backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def measure(side: str, labelled: int) -> int:
    command = [sys.executable, __file__, "--side", side, "--labelled", str(labelled)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    parser = paired.parser(__doc__, rounds=1)
    parser.add_argument("--side", choices=["full", "answers"], help="one measurement, in bytes")
    parser.add_argument("--labelled", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.side:
        print(peak(args.side, args.labelled))
        return 0
    cases = {}
    for labelled in (128, TOKENS - 1):
        full, answers = measure("full", labelled), measure("answers", labelled)
        cases[f"answer-only / full logits, {labelled} labelled, peak memory"] = paired.measured(
            {"answers": answers / 2**20, "full": full / 2**20}, "MiB", ("<=", 0.1)
        )
    setting = {"vocabulary": VOCABULARY, "tokens": TOKENS, "width": WIDTH, "chunk": CHUNK}
    return paired.finish("answer_ce", args, json.loads(json.dumps(cases)), setting)


if __name__ == "__main__":
    sys.exit(main())
