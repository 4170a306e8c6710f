"""Numbered pictures in a folder, as the layouts that keep colour and depth apart have them."""

from __future__ import annotations

import re
from pathlib import Path

_COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")
_DEPTH_SUFFIXES = (".png",)


def stems(folder: Path, names: tuple[str, ...], depth: bool = False) -> dict[str, Path]:
    """Stem -> file of the first subfolder of ``folder`` that exists among ``names``; empty without one."""
    suffixes = _DEPTH_SUFFIXES if depth else _COLOR_SUFFIXES
    for name in names:
        if (folder / name).is_dir():
            return {p.stem: p for p in (folder / name).iterdir() if p.suffix.lower() in suffixes}
    return {}


def natural_key(stem: str) -> tuple[int, str]:
    """Sort by the last number in the name (2 before 10), then by name."""
    numbers = re.findall(r"\d+", stem)
    return (int(numbers[-1]) if numbers else -1), stem
