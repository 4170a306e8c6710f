"""Feature maps on disk: bounded, shared by all processes of a machine, checked whenever they are read.

An entry is one safetensors file, written beside its final name and moved there, so that a reader sees all of it
or nothing. Nothing is locked: an entry that another process removes while it is read is read to its end or
missed, and of two that are written under one key the later one stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from spatialprior.core.cache import cache_root
from spatialprior.features.maps import Box, FeatureMaps

log = logging.getLogger(__name__)

_LAYOUT = 1
"""Part of every key: another meaning of an entry's content needs another number."""

_TENSOR = "values"
_SUFFIX = ".safetensors"
_UNFINISHED = ".tmp"
_ABANDONED_AFTER = 3600.0
"""Seconds after which an unfinished file is a killed writer's; a write takes a fraction of one."""

_SLACK = 32
"""A full cache is emptied by one part in so many at once: each time, all entries are listed."""


@dataclass(frozen=True)
class EntryKey:
    """What an entry's values depend on.

    Attributes:
        text: Canonical JSON of it; kept in the entry and compared when it is read.
    """

    text: str

    @staticmethod
    def of(
        images: Tensor, frame_ids: Sequence[int] | None, settings: Mapping[str, Any]
    ) -> EntryKey:
        """Key of the maps of some frames.

        Args:
            images: uint8, of any shape.
            frame_ids: Time index of each, or ``None`` where it plays no part.
            settings: ``encoder.settings()``.

        Raises:
            TypeError: A setting is no JSON value.
            ValueError: A setting is infinite or not a number.
        """
        fields = {
            "layout": _LAYOUT,
            "media": media_hash(images),
            "frame_ids": None if frame_ids is None else [int(number) for number in frame_ids],
            "settings": dict(settings),
        }
        return EntryKey(json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False))

    @property
    def name(self) -> str:
        """SHA-256 of the text, hexadecimal: the entry's file name."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def media_hash(images: Tensor) -> str:
    """blake2b over the shape and the raw bytes of uint8 ``images``, whatever file they came from."""
    if images.dtype != torch.uint8:
        raise TypeError(f"frames must be uint8, got {images.dtype}")
    return _digest(images, "")


def _digest(tensor: Tensor, note: str) -> str:
    """blake2b over a note, the tensor's type and shape, and its bytes."""
    digest = hashlib.blake2b(digest_size=32)
    digest.update(f"{note}|{tensor.dtype}|{list(tensor.shape)}|".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FeatureCache:
    """Entries under ``folder/ab/<key>.safetensors``; the least recently used give way.

    A file system that refuses (full, read-only) costs a warning and never an error: the cache only saves time.

    Args:
        folder: Where; ``None`` is ``features`` in :func:`~spatialprior.core.cache.cache_root`.
        max_bytes: The entries' files together stay within it. P processes that write at once may exceed it by a
            32nd each until the next of them looks. 0 switches the cache off.

    Attributes:
        hits, misses: Entries found and not found, of this object's reads.
        corrupted: Entries found damaged, or belonging to another key; each is a miss too, and removed.
        bytes_read, bytes_written: Of whole files.
    """

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes={max_bytes}: must be positive, or 0 for no cache")
        self.folder = cache_root() / "features" if folder is None else folder
        self.max_bytes = max_bytes
        self.hits = self.misses = self.corrupted = 0
        self.bytes_read = self.bytes_written = 0
        self._room = 0  # what may be written before all entries are listed again

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self.max_bytes > 0

    def path(self, key: EntryKey) -> Path:
        """Where the entry of ``key`` is or would be."""
        return self.folder / key.name[:2] / f"{key.name}{_SUFFIX}"

    # --- reading --------------------------------------------------------------------------

    def get(self, key: EntryKey) -> FeatureMaps | None:
        """The maps of ``key`` on the CPU, byte for byte as stored; ``None`` if they are not there."""
        found = self._read(key) if self.enabled else None
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def _read(self, key: EntryKey) -> FeatureMaps | None:
        path = self.path(key)
        try:
            # Into memory at once: what is mapped could still change or vanish after it was checked.
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("cached features %s cannot be read: %s", path, error)
            return None
        try:
            maps = _unpack(data, key)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("cached features %s are damaged (%s): making them again", path, error)
            self.corrupted += 1
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self.bytes_read += len(data)
        with contextlib.suppress(OSError):  # evicted meanwhile, or someone else's file
            os.utime(path)
        return maps

    # --- writing --------------------------------------------------------------------------

    def put(self, key: EntryKey, maps: FeatureMaps) -> None:
        """Keep ``maps``; one larger than the whole cache is not kept."""
        if not self.enabled:
            return
        data = _pack(maps, key)
        if len(data) > self.max_bytes:
            log.warning(
                "features of %d bytes do not fit into max_bytes=%d", len(data), self.max_bytes
            )
            return
        path = self.path(key)
        partial = path.with_name(f"{key.name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")
        try:
            self._make_room(len(data))
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            log.warning("features cannot be kept in %s: %s", path, error)
            return
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        self._room -= len(data)
        self.bytes_written += len(data)

    def _make_room(self, size: int) -> None:
        """See to it that ``size`` more bytes fit, by removing what was used longest ago."""
        if size <= self._room:
            return
        entries = sorted(self._entries())
        slack = self.max_bytes // _SLACK
        total = sum(taken for _, taken, _ in entries)
        if total + size > self.max_bytes:
            for _, taken, path in entries:
                if total + size + slack <= self.max_bytes:
                    break
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    path.unlink()
                total -= taken
        # Other processes write too, so nobody trusts what was counted for long.
        self._room = min(self.max_bytes - total, max(slack, size))

    def _entries(self) -> Iterator[tuple[int, int, Path]]:
        """``(last use, size, file)`` of every entry; removes what killed writers left behind."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                try:
                    status = path.stat()
                    if path.suffix == _SUFFIX:
                        yield status.st_mtime_ns, status.st_size, path
                    elif (
                        path.suffix == _UNFINISHED
                        and time.time() - status.st_mtime > _ABANDONED_AFTER
                    ):
                        path.unlink()
                except FileNotFoundError:
                    continue


def _pack(maps: FeatureMaps, key: EntryKey) -> bytes:
    values = maps.values.detach().cpu().contiguous()
    box = json.dumps(maps.box)
    metadata = {"key": key.text, "box": box, "digest": _digest(values, box)}
    return safetensors.torch.save({_TENSOR: values}, metadata)


def _unpack(data: bytes, key: EntryKey) -> FeatureMaps:
    """Undo :func:`_pack`; one of the errors that ``FeatureCache._read`` expects where something is wrong."""
    values = safetensors.torch.load(data)[_TENSOR]
    # The tensors' reader leaves the metadata out; it has checked the header, whose length comes first.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header["__metadata__"]
    if metadata["key"] != key.text:
        raise ValueError("they belong to another key")
    if metadata["digest"] != _digest(values, metadata["box"]):
        raise ValueError("their digest is another")
    x0, y0, x1, y1 = json.loads(metadata["box"])
    box: Box = (float(x0), float(y0), float(x1), float(y1))
    return FeatureMaps(values, box)
