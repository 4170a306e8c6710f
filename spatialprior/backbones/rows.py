"""Rows of token ids under construction, and what is done to several at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spatialprior.core.batch import IGNORE


@dataclass
class Row:
    """One sequence: token ids, what is expected at each, its branch, the view it is reserved for (or -1)."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    views: list[int] = field(default_factory=list)

    def add(
        self,
        ids: Sequence[int],
        *,
        scored: bool = False,
        branch: int = 0,
        views: Sequence[int] | None = None,
    ) -> None:
        self.ids += ids
        self.labels += ids if scored else [IGNORE] * len(ids)
        self.branches += [branch] * len(ids)
        self.views += [-1] * len(ids) if views is None else views

    def copy(self, other: Row, start: int, end: int | None) -> None:
        """Go on with a part of another row."""
        for name in ("ids", "labels", "branches", "views"):
            getattr(self, name).extend(getattr(other, name)[start:end])


def common(prompts: Sequence[list[int]], opening: list[int]) -> int:
    """How many token ids all prompts begin with, at most those of ``opening``."""
    for place, column in enumerate(zip(opening, *prompts, strict=False)):
        if len(set(column)) > 1:
            return place
    return min(map(len, (opening, *prompts)))


def pad(rows: list[list[int]], value: int, *, left: bool) -> Tensor:
    """``B S`` long: rows filled up with ``value`` to the longest."""
    length = max(map(len, rows))
    filled = [
        [value] * (length - len(r)) + r if left else r + [value] * (length - len(r)) for r in rows
    ]
    return torch.tensor(filled, dtype=torch.long)
