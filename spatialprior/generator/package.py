"""The finished generator as a folder that stock diffusers loads: half-precision safetensors, a config each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

DTYPE = torch.float16
"""What the weights are stored in: all are far inside its range, and it keeps three more bits than bfloat16."""

FOLDER = Path(__file__).parent.parent / "features" / "nano" / "wan_t2v"
"""Where the embedded generator lies."""


def round_weights(module: nn.Module) -> None:
    """Round weights to what will be stored, so that all that follows sees the stored model."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(DTYPE))


def write(folder: Path, vae: Any, transformer: Any) -> None:
    """Write ``vae/`` and ``transformer/`` below ``folder``; the models stay as they are."""
    for name, model in (("vae", vae), ("transformer", transformer)):
        kept = {key: p.detach().clone() for key, p in model.named_parameters()}
        model.to(DTYPE).save_pretrained(folder / name, safe_serialization=True)
        model.to(torch.float32)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                parameter.copy_(kept[key])


def size_of(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
