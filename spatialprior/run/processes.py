"""The processes of one run: what the first decides for all, and who failed first.

Only training and scoring are done by all processes together. The rest is the first one's, and the others wait
for its result on disk rather than in a collective, which would time out during a long probe.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from spatialprior.eval.workers import Workers
from spatialprior.run.errors import RunError, is_expected, one_line

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")

FAILURE_FILE = "failure.json"
_PATIENCE = 60.0  # seconds for a network file system to show what another node has written
_PEER_PATIENCE = 5.0  # seconds for a failing process to say why


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: Its number; 0 is the first.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator) -> Self:
        """Those that ``accelerator`` has joined."""
        return cls(accelerator.process_index, accelerator.num_processes)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def from_first(self, value: Callable[[], T]) -> T:
        """What the first process finds, for all. A collective operation."""
        if self.count == 1:
            return value()
        from accelerate.utils import broadcast_object_list

        box = [value() if self.first else None]
        broadcast_object_list(box)
        return box[0]  # type: ignore[return-value]

    def wait_for(self, path: Path, run_folder: Path, patience: float = float("inf")) -> None:
        """Wait until the first process has written ``path``.

        Raises:
            RunError: Another process failed meanwhile, or patience ran out.
        """
        started, pause = time.monotonic(), 0.05
        while not path.exists():
            raise_failure(run_folder, self.rank)
            if time.monotonic() - started > patience:
                raise RunError(
                    f"process {self.rank} on {socket.gethostname()} does not see {path}: output_root must lie "
                    "on a file system that all nodes share"
                )
            time.sleep(pause)
            pause = min(2.0, 1.5 * pause)

    def shared_folder(self, make: Callable[[], Path]) -> Path:
        """The run folder that the first process chose, seen to exist by every other one."""

        def fresh() -> str:
            folder = make()
            (folder / FAILURE_FILE).unlink(missing_ok=True)
            return str(folder)

        folder = Path(self.from_first(fresh))
        if not self.first:
            self.wait_for(folder, folder, _PATIENCE)
        return folder

    def workers(self, run_folder: Path) -> Workers:
        """These processes as those that share a scoring."""
        wait_for = partial(self.wait_for, run_folder=run_folder)
        return Workers(self.rank, self.count, first=self.from_first, wait_for=wait_for)

    def failed(self, folder: Path, error: BaseException) -> BaseException:
        """Record that this process failed; returns the error to raise, which names the first cause.

        When one process dies the others fail too, in the middle of an exchange with it and with messages that
        help nobody.
        """
        if self.count == 1 or isinstance(error, KeyboardInterrupt):
            return error
        if _is_broken_exchange(error):
            deadline = time.monotonic() + _PEER_PATIENCE
            while time.monotonic() < deadline:
                try:
                    raise_failure(folder, self.rank)
                except RunError as cause:
                    return cause
                time.sleep(0.1)
            return RunError(
                f"process {self.rank} lost contact with another one, which left no message: it was killed (out "
                "of memory?) or its machine is gone; the launcher's summary says which. resume=RUN_FOLDER goes "
                f"on from the last checkpoint ({one_line(error)[:120]})"
            )
        _record(folder, self.rank, error)
        return error


def raise_failure(folder: Path, rank: int) -> None:
    """Raise a :class:`RunError` when another process than ``rank`` has recorded a failure."""
    try:
        failure = json.loads((folder / FAILURE_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return
    if failure["rank"] != rank:
        raise RunError(
            f"process {rank} stopped because process {failure['rank']} on {failure['host']} failed: "
            f"{failure['message']}"
        )


def _record(folder: Path, rank: int, error: BaseException) -> None:
    """The first failure stays; later ones are mostly its consequences."""
    failure = {
        "rank": rank,
        "host": socket.gethostname(),
        "message": f"{type(error).__name__}: {one_line(error)}",
        "traceback": "".join(traceback.format_exception(error)),
    }
    try:
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump(failure, file)
        try:
            os.link(file.name, folder / FAILURE_FILE)  # whole at once, and only if none is there
        finally:
            os.unlink(file.name)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links, or full: the message on stderr must do then
        with contextlib.suppress(OSError), (folder / FAILURE_FILE).open("x") as plain:
            json.dump(failure, plain)


def _is_broken_exchange(error: BaseException) -> bool:
    """Whether a collective operation broke off, as it does when another process has died."""
    if is_expected(error):
        return False
    module = type(error).__module__
    text = str(error)
    return isinstance(error, RuntimeError) and (
        module.startswith("torch.distributed")
        or any(word in text for word in ("gloo", "NCCL", "Connection closed by peer", "c10d"))
    )
