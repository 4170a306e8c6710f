"""Clips as conversations in the processor's own chat template.

The template is never taken apart: it renders a conversation in which unmistakable words stand for a question
or an answer, and the text around them is what the template says there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question

Content = list[dict[str, str]]
"""What a user says in one turn: ``{"type": "image"}``, ``{"type": "video"}``, ``{"type": "text", ...}``."""

_HOLE = "\ue000hole\ue000"  # of Unicode's private use area: in no question and no template


def is_interleaved(clip: MultiViewClip) -> bool:
    """Whether the questions say where the views stand."""
    return any(IMAGE_MARK in question.text for question in clip.questions)


def contents(clip: MultiViewClip, *, video: bool) -> list[Content]:
    """What the user says in each question: the views (as one video or as images), then the text.

    In a dialogue the views come once, before the first question or where the questions say; independent
    questions each have them all.

    Raises:
        ValueError: The marks in the questions are not as many as the views, or several independent questions
            have marks.
    """
    if not is_interleaved(clip):
        views = [{"type": "video"}] if video else [{"type": "image"}] * clip.num_views
        return [
            [*(views if k == 0 or not clip.dialogue else []), *_text(question.text)]
            for k, question in enumerate(clip.questions)
        ]
    marks = sum(question.text.count(IMAGE_MARK) for question in clip.questions)
    if marks != clip.num_views:
        raise ValueError(
            f"clip {clip.clip_id}: {marks} image marks in its questions for {clip.num_views} views"
        )
    if len(clip.questions) > 1 and not clip.dialogue:
        raise ValueError(
            f"clip {clip.clip_id}: independent questions cannot say where the views stand; "
            "set dialogue=True, or make it one clip a question"
        )
    return [_interleave(question.text) for question in clip.questions]


def _text(text: str) -> Content:
    return [{"type": "text", "text": text}] if text else []


def _interleave(text: str) -> Content:
    first, *others = text.split(IMAGE_MARK)
    return _text(first) + [part for piece in others for part in ({"type": "image"}, *_text(piece))]


class ChatTemplate:
    """Texts between the answers, from the processor's ``apply_chat_template``.

    Attributes:
        lead: What the template puts between the generation prompt and an answer (often nothing).
    """

    def __init__(self, processor: Any, end: str) -> None:
        self.processor, self.end = processor, end
        alone = self.prompt([_text("a")], [])
        between = self.prompt([_text("a"), _text("b")], [_HOLE])
        before = between.partition(_HOLE)[0]
        # Some templates write a turn that is over unlike one that begins; then the prompt is what counts.
        self.lead = before.removeprefix(alone) if before.startswith(alone) else ""

    def prompt(self, said: Sequence[Content], answers: Sequence[str]) -> str:
        """The conversation up to the assistant's next turn; one answer fewer than the user has turns."""
        messages = []
        for k, content in enumerate(said):
            messages.append({"role": "user", "content": content})
            if k < len(answers):
                reply = [{"type": "text", "text": answers[k]}]
                messages.append({"role": "assistant", "content": reply})
        text: str = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def opening(self, content: Content) -> str:
        """The text before a first question that comes after ``content``."""
        return self.prompt([[*content, *_text(_HOLE)]], []).partition(_HOLE)[0]

    def continuation(self, said: Sequence[Content], answers: Sequence[str]) -> str:
        """What follows the end of the last answer, up to the assistant's next turn."""
        text = self.prompt(said, [*answers[:-1], _HOLE])
        return text.rpartition(_HOLE)[2].removeprefix(self.end)


def check_text(clip: MultiViewClip, question: Question, placeholders: Sequence[str]) -> None:
    """Refuse a question or an answer that spells a token that stands for an image."""
    for placeholder in placeholders:
        if placeholder in question.text + question.answer:
            raise ValueError(
                f"clip {clip.clip_id}: the question {question.text!r} or its answer contains "
                f"{placeholder}; images go in by themselves, name them in words"
            )
