"""Questions about the sampled views of a room, deterministic in the clip's random stream."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np

from spatialprior.core.clip import Question
from spatialprior.data.rooms.furniture import FURNITURE
from spatialprior.data.rooms.observed import LETTERS, Observed
from spatialprior.data.rooms.question_types import (
    COLOURS,
    COUNTS,
    ORDINALS,
    QUESTION_TYPES,
    VIEW_COUNTS,
    YES_NO,
)
from spatialprior.data.rooms.scene import STRUCTURE

_PATIENCE = 12  # draws of question types without a new question before a clip is exhausted

_FRAME_WORDS = (
    "image images cell color or nearer left right of camera turn move from to forward back all count objects "
    "seen first same as in is at facing closer only"
)


def resolve_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """Question types meant by a list of names, or by ``["all"]``.

    Raises:
        ValueError: A name does not exist; near ones are suggested.
    """
    names = tuple(tasks)
    if names == ("all",):
        return tuple(QUESTION_TYPES)
    for name in names:
        if name not in QUESTION_TYPES:
            near = difflib.get_close_matches(name, QUESTION_TYPES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"data.tasks: no question type {name!r}; {hint}there are {', '.join(QUESTION_TYPES)}, or all"
            )
    return names


def make_questions(
    seen: Observed, count: int, tasks: tuple[str, ...], rng: np.random.Generator
) -> tuple[Question, ...]:
    """Up to ``count`` different questions, types in equal shares as far as the views allow."""
    questions: dict[str, Question] = {}
    idle = 0
    while tasks and len(questions) < count and idle < _PATIENCE:
        before = len(questions)
        for place in rng.permutation(len(tasks)).tolist():
            question = QUESTION_TYPES[tasks[place]](seen, rng)
            if question is not None and len(questions) < count:
                questions.setdefault(question.text, question)
        idle = idle + 1 if len(questions) == before else 0
    return tuple(questions.values())


def vocabulary() -> tuple[str, ...]:
    """Every word that a question or an answer can contain, for the nano tokenizer."""
    words = [
        *_FRAME_WORDS.split(),
        *COLOURS,
        *COUNTS.values(),
        *VIEW_COUNTS,
        *YES_NO,
        *ORDINALS,
        *STRUCTURE,
        *FURNITURE,
        *LETTERS,
    ]
    return tuple(dict.fromkeys([*words, "1", "2", "3", "4", "5", "6", "7", "8", "9", "?"]))
