"""What identifies weights that lie in local files: the same for a copy on another machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_READ_WHOLE = 64 * 2**20
"""Bytes, of all files together, up to which contents are read whole."""

_SAMPLE, _SAMPLES = 2**20, 8


def digest(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 over names below ``root``, sizes and contents (eight samples of large files)."""
    sizes = {file: file.stat().st_size for file in sorted(files)}
    whole = sum(sizes.values()) < _READ_WHOLE
    total = hashlib.sha256()
    for file, size in sizes.items():
        total.update(f"{file.relative_to(root).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            if whole or size <= _SAMPLES * _SAMPLE:
                total.update(stream.read())
                continue
            for number in range(_SAMPLES):  # the first begins the file, the last ends it
                stream.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
                total.update(stream.read(_SAMPLE))
    return total.hexdigest()
