"""Conversations about views: each turn behind those before it, with the model's own replies to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.eval.benchmark import Item
from spatialprior.eval.media_cache import Views


@dataclass(frozen=True)
class Turn:
    """One turn.

    Attributes:
        question: What is asked.
        clip: The views that are new in it.
        reply: What the model said.
    """

    question: Question
    clip: MultiViewClip
    reply: str = ""


def asks_in_place(items: Iterable[Item], views: Views) -> Mapping[str, bool]:
    """Dialogue -> whether texts must say where views stand, since not all of them come in the first turn."""
    found: dict[str, bool] = {}
    for item in items:
        if item.dialogue is None:
            continue
        clip = views[item.clip.clip_id]
        later = item.dialogue in found and isinstance(clip, MultiViewClip) and clip.num_views > 0
        marked = later or IMAGE_MARK in item.question.text
        found[item.dialogue] = found.get(item.dialogue, False) or marked
    return found


def asked_behind(turns: Sequence[Turn], last: Turn, name: str, marked: bool) -> MultiViewClip:
    """The clip whose prompt is ``turns`` with their replies, and then the question of ``last``.

    Args:
        turns: Before it, in order.
        last: Its reply is not looked at.
        name: Of the conversation.
        marked: Texts without marks get one for each of their turn's views, in front.
    """
    every = [*turns, last]
    questions = [replace(turn.question, answer=turn.reply) for turn in every]
    if marked:
        questions = [_marked(q, turn.clip) for q, turn in zip(questions, every, strict=True)]
    shown = [turn.clip for turn in every if turn.clip.num_views] or [last.clip]
    clip = shown[0] if len(shown) == 1 else _joined(shown, name)
    return replace(clip, questions=tuple(questions), dialogue=True)


def _marked(question: Question, clip: MultiViewClip) -> Question:
    if IMAGE_MARK in question.text:
        return question
    return replace(question, text=IMAGE_MARK * clip.num_views + question.text)


def _joined(clips: Sequence[MultiViewClip], name: str) -> MultiViewClip:
    """All views in order, without geometry."""
    views = [view for clip in clips for view in clip.images]
    images: Tensor | tuple[Tensor, ...] = tuple(views)
    if len({view.shape for view in views}) == 1:
        images = torch.stack(views)
    times = tuple(time for clip in clips for time in clip.frame_ids)
    if any(after <= before for before, after in pairwise(times)):  # each turn counts from 0
        times = tuple(range(len(views)))
    return MultiViewClip(name, clips[0].source_id, images, times)
