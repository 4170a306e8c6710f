"""Samples that cannot be used: counted, named once a file, replaced by others that do not depend on luck."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from spatialprior.data.sequence import BadFrameError

log = logging.getLogger(__name__)

T = TypeVar("T")

LOG_FILE = "bad_media.jsonl"

MAX_SUBSTITUTES = 20
"""Samples tried in place of a bad one, before the data is called unusable."""

_SUBSTITUTE_STREAM = 0x5B


class UnusableDataError(BadFrameError):
    """So many samples are bad that none could be found in place of one."""


class BadSamples:
    """What one process met.

    Attributes:
        reasons: Bad file -> what is wrong with it.
        count: Samples that were replaced.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.count = 0
        self._folder: Path | None = None

    def keep_in(self, folder: Path) -> None:
        """Also append each bad file, once a process, to ``bad_media.jsonl`` in this folder.

        A line is written by one call to a file opened for appending, so loader processes may share it.
        """
        self._folder = folder

    def add(self, error: BadFrameError) -> None:
        """Count a bad sample; name its file the first time."""
        self.count += 1
        if error.path in self.reasons:
            return
        self.reasons[error.path] = error.reason
        log.warning("replaced bad sample, file %d of this process: %s", len(self.reasons), error)
        if self._folder is not None:
            line = json.dumps({"path": error.path, "reason": error.reason, "process": os.getpid()})
            self._folder.mkdir(parents=True, exist_ok=True)
            target = os.open(self._folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(target, (line + "\n").encode())
            finally:
                os.close(target)


def read_or_substitute(
    read: Callable[[int], T],
    place: int,
    *,
    length: int,
    seed: int,
    index: int,
    on_bad: Literal["substitute", "fail"],
    bad: BadSamples,
) -> T:
    """``read(place)``, or another of the ``length`` samples where that one is bad.

    The others are drawn from (seed, index, attempt): the same ones in every process, worker and resumed run.

    Args:
        read: Reads the sample at a place; raises :class:`BadFrameError` for a bad one.
        place: The sample that is due.
        length: How many samples there are.
        seed, index: Of the run, and of the clip that is asked for.
        on_bad: ``fail`` lets the first error through.
        bad: Counts.

    Raises:
        BadFrameError: With ``on_bad="fail"``, the sample is bad.
        UnusableDataError: The sample and all its substitutes are bad.
    """
    for other in _candidates(place, length, seed, index):
        try:
            return read(other)
        except BadFrameError as error:
            if on_bad == "fail":
                raise
            bad.add(error)
            last = error
    raise UnusableDataError(
        last.path,
        f"{last.reason}; {MAX_SUBSTITUTES} samples drawn in place of clip {index} are bad too "
        f"({len(bad.reasons)} bad files so far): is media_root right? on_bad=fail stops at the first",
    )


def _candidates(place: int, length: int, seed: int, index: int) -> Iterator[int]:
    yield place
    for attempt in range(MAX_SUBSTITUTES):
        rng = np.random.default_rng([seed, index, attempt, _SUBSTITUTE_STREAM])
        yield int(rng.integers(length))
