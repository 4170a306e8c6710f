"""Questions that cannot be answered: recorded and counted as wrong, unless nothing else happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch

PATIENCE = 8
"""Failures without a success after which a scoring stops."""
_LONGEST = 400  # characters of an error
_OF_LENGTH = ("ContextLengthError", "OutOfMemoryError")
"""The longest questions are asked first: that these fail says nothing of the others."""


class EvaluationError(RuntimeError):
    """A scoring cannot go on. The message is one line."""


@dataclass(frozen=True)
class Failure:
    """Why a question has no reply.

    Attributes:
        message: The error's class and what it says, one line.
        out_of_memory: Whether fewer questions at a time might do.
    """

    message: str
    out_of_memory: bool = False

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Without the error itself, which would keep the tensors of its stack alive."""
        said = " ".join(str(error).split())[:_LONGEST]
        name = type(error).__name__
        return cls(f"{name}: {said}" if said else name, _out_of_memory(error))


@dataclass
class Patience:
    """Stops a scoring in which nothing succeeds: then the benchmark or the model is at fault, not an item.

    Counted are clips, since all questions about a broken one fail together.
    """

    succeeded: bool = False
    failed: dict[str, str] = field(default_factory=dict)

    def see(self, item_id: str, clip_id: str, error: str | None) -> None:
        """Take note of one reply.

        Raises:
            EvaluationError: The first eight clips failed, all of them.
        """
        if error is None:
            self.succeeded = True
        if error is None or self.succeeded or error.startswith(_OF_LENGTH):
            return
        self.failed.setdefault(clip_id, f"{item_id}: {error}")
        if len(self.failed) >= PATIENCE:
            first = next(iter(self.failed.values()))
            raise EvaluationError(
                f"questions about each of the first {len(self.failed)} clips failed; the first, {first}"
            )


def is_broken_device(error: Exception) -> bool:
    """Whether the process cannot compute any more, as after a failed assertion on a GPU."""
    lost = isinstance(error, RuntimeError) and "CUDA error" in str(error)
    return lost and not _out_of_memory(error)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
