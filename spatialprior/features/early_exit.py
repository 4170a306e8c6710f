"""Run a stock model up to one of its modules and no further."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn


class _ReachedError(Exception):
    """The wanted tensor is there. Never seen outside of this file."""


class Captured:
    """Where :func:`stop_at` leaves the tensor."""

    value: Tensor


@contextmanager
def stop_at(
    module: nn.Module, side: Literal["input", "output"], early: bool = True
) -> Iterator[Captured]:
    """Capture ``module``'s first input, or its output, and skip all that would run after it.

    Args:
        module: Part of the model that is called inside of the block.
        side: Which tensor.
        early: ``False`` captures just the same and lets the model run to its end (to compare with).
    """
    captured = Captured()

    def take(tensor: Any) -> None:
        captured.value = tensor[0] if isinstance(tensor, tuple) else tensor
        if early:
            raise _ReachedError

    if side == "input":
        handle = module.register_forward_pre_hook(lambda m, args: take(args))
    else:
        handle = module.register_forward_hook(lambda m, args, output: take(output))
    try:
        yield captured
    except _ReachedError:
        pass
    finally:
        handle.remove()
