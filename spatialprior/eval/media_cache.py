"""Views that are read when their questions come up, and kept while memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from torch import Tensor

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.batches import Batch
from spatialprior.eval.benchmark import Item, LazyViews
from spatialprior.eval.failures import Failure

Views = Mapping[str, MultiViewClip | Failure]
"""Clip id -> the clip, or why it cannot be read."""


class MediaCache:
    """The clips read last, up to a number of bytes. Which cannot be read is remembered too.

    Args:
        max_bytes: Of decoded views kept for later batches; those being answered come on top.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._kept: OrderedDict[str, MultiViewClip] = OrderedDict()
        self._failed: dict[str, Failure] = {}
        self._lock = Lock()

    def load(self, items: Iterable[Item]) -> Views:
        """The views of ``items``."""
        found: dict[str, MultiViewClip | Failure] = {}
        for item in items:
            if item.clip.clip_id not in found:
                found[item.clip.clip_id] = self._one(item.clip)
        return found

    def _one(self, clip: MultiViewClip | LazyViews) -> MultiViewClip | Failure:
        if isinstance(clip, MultiViewClip):
            return clip
        name = clip.clip_id
        with self._lock:
            if name in self._failed:
                return self._failed[name]
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        try:
            loaded = clip.load()
        except Exception as error:  # whatever a benchmark's own reader raises: the item's error
            failure = Failure.of(error)
            with self._lock:
                self._failed[name] = failure
            return failure
        self._keep(name, loaded)
        return loaded

    def _keep(self, name: str, clip: MultiViewClip) -> None:
        size = _num_bytes(clip)
        if size > self.max_bytes:
            return
        with self._lock:
            if name in self._kept:
                return
            self._kept[name] = clip
            self.num_bytes += size
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= _num_bytes(self._kept.popitem(last=False)[1])


def loaded_ahead(batches: Sequence[Batch], cache: MediaCache) -> Iterator[tuple[Batch, Views]]:
    """Every batch with its views; those of the next one are read in a thread meanwhile."""
    following: Future[Views] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="media") as pool:
        for place, batch in enumerate(batches):
            views = following.result() if following else cache.load(batch.items)
            rest = batches[place + 1 : place + 2]
            following = pool.submit(cache.load, rest[0].items) if rest else None
            yield batch, views


def _num_bytes(clip: MultiViewClip) -> int:
    parts = [clip.images] if isinstance(clip.images, Tensor) else [*clip.images]
    parts += [part for part in (clip.depth, clip.depth_valid) if part is not None]
    return sum(part.numel() * part.element_size() for part in parts)
