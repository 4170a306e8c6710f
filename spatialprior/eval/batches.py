"""Which questions are answered together: decided by the benchmark alone, never by what was answered before.

So a reply, which may depend on its neighbours in the last bit of a sum, is the same wherever a scoring was
interrupted and however many processes share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import TypeVar

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.eval.benchmark import Engine, Item

T = TypeVar("T")

WINDOW = 512
"""Questions that are looked at together and sorted by length; bounds memory."""


@dataclass(frozen=True)
class Batch:
    """Questions that are answered together.

    Attributes:
        rounds: One after the other: the k-th turn of every conversation. Other batches have one.
        packed: Whether questions about one clip share a pass over its images.
    """

    rounds: tuple[tuple[Item, ...], ...]
    packed: bool = False

    @property
    def items(self) -> list[Item]:
        """All of them, round by round."""
        return [item for each in self.rounds for item in each]


def windows(items: Iterable[Item], size: int = WINDOW) -> Iterator[list[Item]]:
    """Runs of about ``size`` items that split neither a clip nor a conversation."""
    yield from _filled((list(group) for _, group in groupby(items, key=_unit)), size)


def batches(window: Sequence[Item], size: int, engine: Engine) -> list[Batch]:
    """Items of about equal length together, longest first: little is padding, and memory peaks early.

    Conversations are answered turn by turn, ``size`` of them together. Questions that say where their views
    stand cannot share a pass over the images, and are generated one sequence each.

    Args:
        window: Of :func:`windows`.
        size: Questions in a batch; packed, a clip's are not split, so that it may be more.
        engine: As the benchmark is set.
    """
    talks: dict[str, list[Item]] = {}
    packed, plain = [], []
    for item in window:
        if item.dialogue is not None:
            talks.setdefault(item.dialogue, []).append(item)
        elif engine == "packed" and IMAGE_MARK not in item.question.text:
            packed.append(item)
        else:
            plain.append(item)
    by_clip = [list(group) for _, group in groupby(packed, key=lambda item: item.clip.clip_id)]
    found = [Batch((tuple(b),), packed=True) for b in _filled(_longest_first(by_clip), size)]
    alone = _longest_first([[item] for item in plain])
    found += [Batch((tuple(each[0] for each in some),)) for some in _chunks(alone, size)]
    for some in _chunks(_longest_first(list(talks.values())), size):
        turns = zip_longest(*some)
        found.append(Batch(tuple(tuple(i for i in turn if i is not None) for turn in turns)))
    return found


def _unit(item: Item) -> tuple[bool, str]:
    talk = item.dialogue is not None
    return talk, item.dialogue if item.dialogue is not None else item.clip.clip_id


def _filled(groups: Iterable[list[Item]], size: int) -> Iterator[list[Item]]:
    """Whole groups put together until there are ``size`` items or more."""
    filled: list[Item] = []
    for group in groups:
        filled += group
        if len(filled) >= size:
            yield filled
            filled = []
    if filled:
        yield filled


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _longest_first(groups: list[list[Item]]) -> list[list[Item]]:
    return sorted(groups, key=_length, reverse=True)


def _length(items: Sequence[Item]) -> tuple[int, int]:
    """Orders sequences by length: views first (each clip's once), then words."""
    views = {item.clip.clip_id: item.clip.num_views for item in items}
    return sum(views.values()), sum(len(item.question.text) for item in items)
