"""Stages of a run: each is done once, its result kept, so that an interrupted run goes on where it was."""

from __future__ import annotations

import gc
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spatialprior.report.schema import jsonable, write_text
from spatialprior.run.processes import Processes


class Stages:
    """Results of finished stages under ``folder``, one JSON file each with its seconds.

    Args:
        folder: ``stages/`` of a run folder.
        announce: Called with the name of a stage that is about to run.
        processes: The run's processes; the first works and writes, the others wait.
    """

    def __init__(
        self,
        folder: Path,
        announce: Callable[[str], None] = print,
        processes: Processes = Processes(),  # noqa: B008 (frozen)
    ) -> None:
        self.folder, self.announce, self.processes = folder, announce, processes

    def run(self, name: str, work: Callable[[], Any], *, together: bool = False) -> Any:
        """The stage's result: as kept, or made now by ``work`` and kept.

        With ``together`` all processes do the work (the first one's result counts).
        """
        path = self._path(name)
        done = self.processes.from_first(path.exists) if together else path.exists()
        if not self.processes.first:
            if together and not done:
                work()
                _let_go()
            self.processes.wait_for(path, self.folder.parent)
            done = True
        if done:
            return json.loads(path.read_text())["result"]
        self.announce(name)
        started = time.perf_counter()
        result = jsonable(work())
        _let_go()
        record = {
            "result": result,
            "seconds": time.perf_counter() - started,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        write_text(path, json.dumps(record))
        return result

    def kept(self, name: str) -> Any:
        """The result of a finished stage; ``None`` where it is not done."""
        path = self._path(name)
        return json.loads(path.read_text())["result"] if path.exists() else None

    def done(self, name: str) -> bool:
        return self._path(name).exists()

    def forget(self, prefix: str, *folders: Path) -> None:
        """Drop finished stages whose name starts with ``prefix``, and the folders that they made."""
        for path in self.folder.glob(f"{prefix}*.json"):
            path.unlink()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def seconds(self) -> dict[str, float]:
        """Seconds of every finished stage, in the order in which they finished."""
        paths = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return {path.stem: json.loads(path.read_text())["seconds"] for path in paths}

    def peak_rss_bytes(self) -> int:
        """Largest resident memory that any stage saw."""
        records = [json.loads(path.read_text()) for path in self.folder.glob("*.json")]
        return max((int(record["peak_rss_bytes"]) for record in records), default=0)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '.')}.json"


def _let_go() -> None:
    """Free the models of a stage before the next one loads its own: they refer to themselves in a circle."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
