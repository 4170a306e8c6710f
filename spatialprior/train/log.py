"""``log.jsonl``: one line a step with every term, raw and weighted; Weights & Biases beside it on request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class StepLog:
    """Appends to ``path``; lines of steps that a resumed run will redo are dropped first.

    Args:
        path: The file.
        first_step: Number of finished steps to keep (0 starts afresh).
        tracker: Anything with ``log(dict, step=int)``, such as a wandb run.
    """

    def __init__(self, path: Path, first_step: int = 0, tracker: Any = None) -> None:
        self.path, self.tracker = path, tracker
        kept = [line for line in read_log(path) if line["step"] <= first_step] if first_step else []
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(aside, path)

    def write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.tracker is not None:
            self.tracker.log(line, step=line["step"])


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a log, without a last one that a kill cut short."""
    if not path.exists():
        return
    for text in path.read_text().splitlines():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            return
