"""Which parts of a model carry adapters, told once a training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spatialprior.report.schema import write_text


def tell_adapted(backbone: Any, folder: Path) -> None:
    """Which linear maps carry LoRA: by name on the terminal, in full in ``lora_targets.txt``."""
    adapted: list[str] = getattr(backbone, "adapted", [])
    if not adapted:
        return
    leaves = Counter(name.rpartition(".")[2] for name in adapted)
    counted = ", ".join(f"{count} {leaf}" for leaf, count in leaves.items())
    path = folder / "lora_targets.txt"
    write_text(path, "\n".join(adapted) + "\n")
    tqdm.write(f"LoRA on {len(adapted)} linear maps of the decoder: {counted} (each in {path})")
