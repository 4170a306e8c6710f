"""The processes that share one scoring."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _watch(path: Path) -> None:
    while not path.exists():
        time.sleep(0.2)


@dataclass(frozen=True)
class Workers:
    """This process among those that answer together; alone by default.

    They meet on disk, not in a collective operation, which would time out when one has more to do.

    Attributes:
        rank: Its number; 0 is the first, which gathers what all answered.
        count: How many there are.
        first: Runs its argument in the first process while the others wait; ``None`` where nothing brings them
            together. Then each begins at once, and questions that failed earlier are not tried again.
        wait_for: Returns when another process has written the path.
    """

    rank: int = 0
    count: int = 1
    first: Callable[[Callable[[], None]], object] | None = None
    wait_for: Callable[[Path], None] = _watch

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ValueError(f"worker {self.rank} of {self.count}: ranks go from 0 to count - 1")

    def begin(self, prepare: Callable[[], None]) -> None:
        """Run ``prepare`` once, before any process begins."""
        if self.count == 1:
            prepare()
        elif self.first is not None:
            self.first(prepare)
