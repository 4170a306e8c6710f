"""Greedy replies to many chats: sorted by length, in batches, one pass over the views that several share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from spatialprior.core.backbone import Backbone
from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.answering import replies_to
from spatialprior.eval.lmms.messages import Chat, as_clip

_WINDOW = 256  # chats with decoded pictures that are held at once
_TOGETHER = 32  # questions behind one visual prefix: the attention mask grows with their square

Group = list[int]
"""Numbers of chats that share their views."""


class Answering:
    """A model that answers.

    Args:
        backbone: Loaded, in evaluation mode, with the priors that it keeps.
        frames: Frames of a video.
        batch: Questions answered together.
        packed: Share one pass over the views among all questions about them; else one sequence a question.
    """

    def __init__(self, backbone: Backbone, frames: int, batch: int, packed: bool) -> None:
        self.backbone, self.frames, self.batch = backbone, frames, batch
        self.encoder: Any = backbone.encoder()
        self.packed = packed

    def replies(self, read: Sequence[Callable[[], Chat]], max_new_tokens: int) -> list[str]:
        """One reply for each of ``read``, in their order.

        Chats about files are grouped over all of ``read``; those that hold pictures, over a window of them.
        """
        found: dict[int, str] = {}
        files: dict[int, Chat] = {}
        pictures: dict[int, Chat] = {}
        for number, make in enumerate(read):
            chat = make()
            (pictures if chat.in_memory else files)[number] = chat
            if len(pictures) >= _WINDOW:
                found |= self._answer(pictures, max_new_tokens)
                pictures = {}
        for chats in (pictures, files):
            found |= self._answer(chats, max_new_tokens)
        return [found[number] for number in range(len(read))]

    def _answer(self, chats: dict[int, Chat], max_new_tokens: int) -> dict[int, str]:
        found: dict[int, str] = {}
        for batch in batches(chats, self.batch, shared=self.packed):
            clips = [
                as_clip([chats[i] for i in group], f"document {group[0]}", self.frames)
                for group in batch
            ]
            replies = self._generate(clips, max_new_tokens)
            found |= dict(zip(chain.from_iterable(batch), replies, strict=True))
        return found

    def _generate(self, clips: Sequence[MultiViewClip], max_new_tokens: int) -> list[str]:
        packed = self.packed and not any(clip.dialogue for clip in clips)
        return replies_to(clips, self.backbone, self.encoder, max_new_tokens, packed)


def batches(chats: dict[int, Chat], size: int, *, shared: bool) -> Iterator[list[Group]]:
    """Groups of chats put together until they are ``size`` questions or more, longest first.

    Dialogues come by themselves: they cannot be packed. ``shared`` groups the chats that show the same views.
    """
    groups: dict[Any, Group] = {}
    for number, chat in chats.items():
        alone = not shared or chat.key is None
        groups.setdefault(number if alone else chat.key, []).append(number)
    parts = [
        group[start : start + _TOGETHER]
        for group in groups.values()
        for start in range(0, len(group), _TOGETHER)
    ]

    def order(group: Group) -> tuple[bool, int, int]:
        visuals, _ = chats[group[0]].length
        words = sum(chats[i].length[1] for i in group)
        return len(chats[group[0]].turns) > 1, visuals, words

    filled: list[Group] = []
    for group in sorted(parts, key=order, reverse=True):
        if filled and order(group)[0] != order(filled[0])[0]:
            yield filled
            filled = []
        filled.append(group)
        if sum(map(len, filled)) >= size:
            yield filled
            filled = []
    if filled:
        yield filled
