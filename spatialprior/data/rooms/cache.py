"""Rendered rooms on disk: memory-mapped arrays behind a checked manifest, shared by all processes.

A rendered split is one folder of ``.npy`` files, written beside its final name and moved into place,
so a reader sees all of it or nothing. The folder's name hashes everything the pixels depend on, the
renderer's source included.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.generic]]

_MANIFEST = "manifest.json"


def source_digest() -> str:
    """Hash of the renderer's own source, so that an edited renderer never reads an old cache."""
    digest = hashlib.sha256()
    for name in ("furniture", "paths", "raycast", "render", "scene", "solids", "texture"):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def load_or_make(folder: Path, make: Callable[[Path], None]) -> Arrays:
    """Open the arrays of ``folder``; ``make(empty_folder)`` writes its ``.npy`` files where need be.

    A damaged folder is reported and made anew. Two processes asking at once: one makes, the other waits.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        arrays = _open(folder)
        if arrays is not None:
            return arrays
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            make(fresh)
            (fresh / _MANIFEST).write_text(
                json.dumps({p.name: _fingerprint(p) for p in sorted(fresh.glob("*.npy"))})
            )
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        arrays = _open(folder)
    if arrays is None:
        raise OSError(f"{folder}: the cache was written but cannot be read back; is the disk full?")
    return arrays


def _open(folder: Path) -> Arrays | None:
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, expected in manifest.items():
            if _fingerprint(folder / name) != expected:
                raise ValueError(f"{name} has changed since it was written")
        return {
            Path(n).stem: np.load(folder / n, mmap_mode="r", allow_pickle=False) for n in manifest
        }
    except (OSError, ValueError, AttributeError) as error:
        log.warning("cache %s is damaged (%s): rendering it again", folder, error)
        return None


def _fingerprint(path: Path) -> list[int]:
    """Size and CRC-32: catches truncation and bit rot at about a gigabyte a second."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return [path.stat().st_size, crc]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; on a platform without, two processes may both render, harmlessly."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            log.debug("no lock on %s", path)
        yield
