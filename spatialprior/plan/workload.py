"""What a step is made of: how many clips of which size, read off the data's settings; no data is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.plan.config import PlanConfig

if TYPE_CHECKING:
    from spatialprior.run.schema import Component, RunConfig


@dataclass(frozen=True)
class Workload:
    """Clips of one kind.

    Attributes:
        name: ``geometry`` or ``instruction``.
        clips_per_step: Mean number in an optimiser step.
        frames: Fewest and most views of a clip; the number is uniform between the two.
        size: ``(height, width)`` of a view, pixels.
        questions: Questions of a clip.
        text_tokens, answer_tokens: Tokens of a question and of its answer (as far as the tokenizer's words go).
        has_geometry: Whether clips carry depth and poses.
    """

    name: str
    clips_per_step: float
    frames: tuple[int, int]
    size: tuple[int, int]
    questions: int
    text_tokens: int
    answer_tokens: int
    has_geometry: bool

    def frames_at(self, reach: float) -> int:
        """Views of a clip, ``reach`` (0 to 1) of the way from the fewest to the most."""
        low, high = self.frames
        return low + round(reach * (high - low))

    def clip(self, frames: int, word: str) -> MultiViewClip:
        """A clip of this size: ``frames`` equal views of a wall at 2 m, so that every anchor has a match.

        Args:
            frames: Views.
            word: A word of one token (:func:`word_of_one_token`), for questions and answers.
        """
        height, width = self.size
        focal = float(max(height, width))
        geometry: dict[str, Any] = {}
        if self.has_geometry:
            geometry = {
                "intrinsics": torch.tensor(
                    [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
                ).expand(frames, 3, 3),
                "world_to_cam": torch.eye(4).expand(frames, 4, 4),
                "depth": torch.full((frames, height, width), 2.0),
                "depth_valid": torch.ones(frames, height, width, dtype=torch.bool),
            }
        text, answer = (" ".join([word] * n) for n in (self.text_tokens, self.answer_tokens))
        question = Question("plan", text, answer)
        return MultiViewClip(
            clip_id=f"plan-{self.name}",
            source_id="plan",
            images=torch.zeros(frames, 3, height, width, dtype=torch.uint8),
            frame_ids=tuple(range(frames)),
            questions=(question,) * self.questions,
            **geometry,
        )


def word_of_one_token(tokenizer: Any) -> str:
    """A word that a tokenizer reads as one token wherever it stands (or, if it has none, nearly so)."""
    words = ("is", "a", "in", "of", "the")
    return min(words, key=lambda word: abs(len(tokenizer.tokenize(" ".join([word] * 8))) - 8))


def workloads(config: RunConfig) -> list[Workload]:
    """The kinds of clips of a run, those with geometry first."""
    total, plan = config.trainer.clips_per_step, config.plan
    share = config.trainer.instruction_share if config.instruction is not None else 0.0
    extra = config.vqa.questions_per_clip if config.vqa.enabled else 0
    found = [_workload("geometry", config.data, total * (1 - share), plan, extra)]
    if config.instruction is not None:
        found.append(_workload("instruction", config.instruction, total * share, plan, 0))
    return [work for work in found if work.clips_per_step]


def _workload(name: str, source: Component, clips: float, plan: PlanConfig, extra: int) -> Workload:
    settings = source.settings
    asked = getattr(settings, "questions_per_clip", 1) if source.cls.has_questions else 0
    return Workload(
        name,
        clips,
        _frames(settings, plan),
        _size(settings, plan),
        asked + extra,
        plan.text_tokens,
        plan.answer_tokens,
        source.cls.has_geometry,
    )


def _frames(settings: Any, plan: PlanConfig) -> tuple[int, int]:
    """Views of a clip, under the names that our datasets use."""
    if hasattr(settings, "min_frames"):
        return settings.min_frames, settings.max_frames
    for name in ("frames_per_clip", "frames", "num_frames", "max_frames"):
        if isinstance(value := getattr(settings, name, None), int):
            return value, value
    return plan.instruction_frames, plan.instruction_frames


def _size(settings: Any, plan: PlanConfig) -> tuple[int, int]:
    """Views are taken as square: what a processor with an upper bound on pixels makes of them at most."""
    for name in ("image_size", "max_side"):
        if isinstance(value := getattr(settings, name, None), int):
            return value, value
    return plan.frame_side, plan.frame_side
