"""A table of all records: in which file, where, and of which group that no split may cut apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from spatialprior.core.cache import cache_root
from spatialprior.data.conversations.record import declared_paths
from spatialprior.data.conversations.scan import scan_records
from spatialprior.data.media.errors import MediaPathError
from spatialprior.data.media.paths import media_key
from spatialprior.data.rooms.cache import load_or_make
from spatialprior.data.scenes import scene_ids

_VERSION = 2
_BLOCK = 1 << 16


@dataclass(frozen=True)
class RecordIndex:
    """All records of some files; arrays are memory-mapped, so that loader processes share them.

    Attributes:
        files: The files.
        file, start, length: Per record: number of its file, first byte, number of bytes.
        group: Per record, 64 bits. Records about one medium, directly or through others, share them; records
            without media share them if they are the same.
        scene_names: Scenes that media paths name.
        scene, scene_row: Number of a scene, and of a record that shows it.
    """

    files: tuple[Path, ...]
    file: NDArray[np.int32]
    start: NDArray[np.int64]
    length: NDArray[np.int32]
    group: NDArray[np.uint64]
    scene_names: NDArray[np.str_]
    scene: NDArray[np.int32]
    scene_row: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.start)


def open_index(files: Sequence[Path], cache_dir: str | None) -> RecordIndex:
    """The index of ``files``, from the cache where these files were seen before, as they are now.

    Raises:
        ValueError: A file is not JSON.
        MediaPathError: A record names a path outside the media folder.
    """
    stats = [(str(file.resolve()), file.stat()) for file in files]
    key = json.dumps([_VERSION, [(name, s.st_size, s.st_mtime_ns) for name, s in stats]])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = cache_root(cache_dir) / "conversations" / digest
    arrays = load_or_make(folder, partial(_write, files))
    return RecordIndex(tuple(files), **{name: arrays[name] for name in arrays})  # type: ignore[arg-type]


class _Columns:
    """Numbers that arrive one by one, kept in blocks: a list of Python numbers would be five times as large."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._blocks: list[NDArray[np.generic]] = []
        self._last: list[int] = []

    def add(self, value: int) -> None:
        self._last.append(value)
        if len(self._last) == _BLOCK:
            self._close()

    def array(self) -> NDArray[np.generic]:
        self._close()
        return np.concatenate(self._blocks)

    def _close(self) -> None:
        self._blocks.append(np.array(self._last, self._dtype))
        self._last = []


def _write(files: Sequence[Path], folder: Path) -> None:
    columns = {
        "file": "int32",
        "start": "int64",
        "length": "int32",
        "media": "uint64",
        "owner": "int32",
        "scene": "int32",
        "scene_row": "int32",
    }
    scenes: dict[str, int] = {}
    table = {name: _Columns(dtype) for name, dtype in columns.items()}
    row = 0
    size = sum(file.stat().st_size for file in files)
    with tqdm(total=size, desc="index", unit="B", unit_scale=True, leave=False) as bar:
        for number, path in enumerate(files):
            for start, length, record in scan_records(path, bar.update):
                for name, value in (("file", number), ("start", start), ("length", length)):
                    table[name].add(value)
                paths = declared_paths(record)
                for medium in _media(path, start, paths) or [_hash(repr(record))]:
                    table["media"].add(medium)
                    table["owner"].add(row)
                for name in sorted(set().union(*map(scene_ids, paths))):
                    table["scene"].add(scenes.setdefault(name, len(scenes)))
                    table["scene_row"].add(row)
                row += 1
    if not row:
        raise ValueError(f"no record in {', '.join(map(str, files[:3]))}")
    groups = _groups(table["media"].array(), table["owner"].array(), row)
    for name in ("file", "start", "length", "scene", "scene_row"):
        np.save(folder / f"{name}.npy", table[name].array(), allow_pickle=False)
    np.save(folder / "scene_names.npy", np.array(list(scenes), np.str_), allow_pickle=False)
    np.save(folder / "group.npy", groups, allow_pickle=False)


def _media(path: Path, start: int, named: Sequence[str]) -> list[int]:
    """Hashes of the media that a record names."""
    try:
        return [_hash(media_key(text)) for text in named]
    except MediaPathError as error:
        raise MediaPathError(f"{path}, record at byte {start}: {error}") from None


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _groups(media: NDArray, owner: NDArray, rows: int) -> NDArray[np.uint64]:
    """Per record the smallest hash among all media that are tied to it through shared records."""
    if len(owner) == rows:  # one medium each: nothing to tie
        return media
    names, medium = np.unique(media, return_inverse=True)
    edges = coo_array(
        (np.ones(len(owner), bool), (owner, rows + medium)), shape=2 * (rows + len(names),)
    )
    _, part = connected_components(edges, directed=False)
    smallest = np.full(part.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, part[rows:], names)
    return smallest[part[:rows]]
