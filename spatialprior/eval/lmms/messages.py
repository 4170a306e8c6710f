"""A chat of lmms-eval (texts, pictures, paths of videos) as a clip with questions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.data.media import read_image, read_video_frames
from spatialprior.data.media.images import as_view
from spatialprior.eval.lmms.errors import LmmsError

Visual = Image.Image | Path
"""A picture, or the file of a video or of a picture."""

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Turn:
    """What the user says in one turn, and what was answered (empty in the last).

    Attributes:
        parts: Texts and visuals in their order.
        answer: The reply that stands in the chat.
    """

    parts: tuple[str | Visual, ...]
    answer: str = ""

    @property
    def visuals(self) -> list[Visual]:
        """Its pictures and videos."""
        return [part for part in self.parts if not isinstance(part, str)]


@dataclass(frozen=True)
class Chat:
    """A conversation that ends with a question.

    Attributes:
        turns: At least one.
        key: Names the visuals: chats with one key show the same; ``None`` where they must not share a prefix,
            since they show nothing, have several turns, or say where a visual stands.
    """

    turns: tuple[Turn, ...]
    key: str | None

    @property
    def in_memory(self) -> bool:
        """Whether it holds decoded pictures, and not only paths."""
        return any(isinstance(v, Image.Image) for turn in self.turns for v in turn.visuals)

    @property
    def length(self) -> tuple[int, int]:
        """Orders chats by length: visuals first, then characters."""
        parts = [part for turn in self.turns for part in turn.parts]
        words = sum(len(part) for part in parts if isinstance(part, str))
        return sum(not isinstance(part, str) for part in parts), words


def read_chat(messages: Sequence[Mapping[str, Any]]) -> Chat:
    """A chat in the form that lmms-eval's ``doc_to_messages`` gives.

    Raises:
        LmmsError: It has a system message, sound, or part of a video: we have none of these.
    """
    turns: list[Turn] = []
    for message in messages:
        role, content = message["role"], message["content"]
        content = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts = tuple(_part(item) for item in content)
        if role == "user":
            turns.append(Turn(parts))
        elif role == "assistant" and turns:
            turns[-1] = Turn(turns[-1].parts, "".join(map(str, parts)))
        else:
            raise LmmsError(
                f"a chat with a message of role {role!r} there: user and assistant take turns"
            )
    if not turns:
        raise LmmsError("a chat without a question")
    return Chat(tuple(turns), _key(turns))


def as_clip(chats: Sequence[Chat], name: str, frames: int) -> MultiViewClip:
    """The clip of chats that share their visuals, each chat a question; or one chat with all its turns.

    Args:
        chats: One, or several with the same ``key``.
        name: Of the clip.
        frames: Most frames of a video, evenly from the first to the last.
    """
    views: list[Tensor] = []
    questions = [_question(turn, views, frames) for turn in chats[0].turns]
    for chat in chats[1:]:
        questions.append(_question(chat.turns[0], None, frames))
    if chats[0].key is not None or (len(questions) == 1 and _views_first(questions[0].text)):
        questions = [_without_marks(question) for question in questions]
    alike = len({view.shape for view in views}) == 1
    return MultiViewClip(
        clip_id=name,
        source_id=name,
        images=torch.stack(views) if alike else tuple(views),
        frame_ids=tuple(range(len(views))),
        questions=tuple(questions),
        dialogue=len(chats[0].turns) > 1,
    )


def _part(item: Mapping[str, Any]) -> str | Visual:
    kind = item["type"]
    if kind == "text":
        if IMAGE_MARK in item["text"]:
            raise LmmsError(
                f"a text with the character U+{ord(IMAGE_MARK):04X}, which marks images here"
            )
        return str(item["text"])
    if kind not in ("image", "video"):
        raise LmmsError(f"a task with {kind}: our models see pictures and videos")
    found = item["url"]
    partial = isinstance(found, Mapping) or any(
        item.get(k) is not None for k in ("start_time", "end_time")
    )
    if partial:
        raise LmmsError("a task that shows part of a video: only whole videos are read here")
    return found if isinstance(found, Image.Image) else Path(str(found).removeprefix("file://"))


def _key(turns: Sequence[Turn]) -> str | None:
    kinds = [isinstance(part, str) for part in turns[0].parts]
    if len(turns) > 1 or not turns[0].visuals or kinds != sorted(kinds):
        return None
    return "|".join(_name(visual) for visual in turns[0].visuals)


def _name(visual: Visual) -> str:
    if isinstance(visual, Path):
        return str(visual)
    picture = visual.convert("RGB")
    content = hashlib.sha256(picture.tobytes()).hexdigest()
    return f"{picture.width}x{picture.height}:{content}"


def _question(turn: Turn, views: list[Tensor] | None, frames: int) -> Question:
    """The turn's text with a mark for each view; its views are added to ``views`` unless that is ``None``."""
    text = ""
    for part in turn.parts:
        if isinstance(part, str):
            text += part
        elif views is not None:
            found = _views(part, frames)
            views += found
            text += IMAGE_MARK * len(found)
    return Question("lmms_eval", text, turn.answer)


def _views(visual: Visual, frames: int) -> list[Tensor]:
    if isinstance(visual, Image.Image):
        return [as_view(visual.convert("RGB"), None)]
    if visual.suffix.lower() in _PICTURES:
        return [read_image(visual)]
    return read_video_frames(visual, frames).views


def _views_first(text: str) -> bool:
    return IMAGE_MARK not in text.lstrip(IMAGE_MARK)


def _without_marks(question: Question) -> Question:
    return Question(question.task, question.text.lstrip(IMAGE_MARK), question.answer)
