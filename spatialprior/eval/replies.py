"""Replies on disk, written one by one as they come, so that a killed scoring goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from spatialprior.eval.failures import EvaluationError
from spatialprior.eval.workers import Workers

log = logging.getLogger(__name__)

REPLIES = "replies.jsonl"

Row = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What came of a question.

    Attributes:
        text: What the model said; empty with an error.
        error: Why it said nothing.
    """

    text: str
    error: str | None = None


class ReplyFolder:
    """``replies.jsonl``: a first line that says whose replies these are, then one line an item.

    While several processes answer each has a file of its own, ``replies.RANK-of-COUNT.jsonl``. All are read,
    whatever the number of processes that wrote them. Replies of another model, benchmark version, protocol or
    setting are not mixed in: they are put aside in ``replies.kept-WHOSE.jsonl``, and used when asked for again.

    Args:
        folder: Where they lie.
        identity: What must agree for replies to be reused; plain values.
        workers: Who answers.

    Attributes:
        rows: Item id -> line, of everything answered so far.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        workers: Workers = Workers(),  # noqa: B008 (frozen)
    ) -> None:
        self.folder, self.workers = folder, workers
        self.path = folder / REPLIES
        self._head: Row = {"identity": json.loads(json.dumps(identity))}
        self.rows: dict[str, Row] = {}
        self._file: TextIO | None = None

    def prepare(self) -> None:
        """Gather what any number of processes has written, but for questions that failed, to try these again.

        No process may have the folder open.
        """
        self._put_aside()
        kept = {name: row for name, row in self._gathered().items() if "error" not in row}
        self.write(kept.values())

    def __enter__(self) -> ReplyFolder:
        self.rows = self._gathered()
        own = self._own(self.workers.rank)
        self._done(self.workers.rank).unlink(missing_ok=True)
        _write(own, [self._head, *self._rows_in(own)])  # a torn last line is gone
        self._file = own.open("a", encoding="utf-8", errors="surrogatepass")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()
        if kind is None and self.workers.rank:
            self._done(self.workers.rank).touch()

    def add(self, row: Row) -> None:
        """Append one reply (with ``id``); it survives a kill from here on."""
        assert self._file is not None, "use the folder as a context manager"
        self.rows[row["id"]] = row
        self._file.write(_line(row))
        self._file.flush()

    def gather(self) -> dict[str, Row]:
        """Wait for the other processes; then what all have answered, by id."""
        for rank in range(1, self.workers.count):
            self.workers.wait_for(self._done(rank))
        return self._gathered()

    def write(self, rows: Iterable[Row]) -> None:
        """Make ``replies.jsonl`` of exactly these, in this order, and remove the processes' own files."""
        _write(self.path, [self._head, *rows])
        aside = self._aside(self._head)
        for path in (aside, *self._parts(), *self.folder.glob(".replies.*.done")):
            path.unlink(missing_ok=True)

    def _put_aside(self) -> None:
        """Keep replies of another model or setting in files of their own."""
        for path in (self.path, *self._parts()):
            head, *rows = _read(path) or [self._head]
            if rows and head != self._head:
                aside = self._aside(head)
                log.warning(
                    "%s holds replies of another model or setting; they are kept in %s", path, aside
                )
                every = {row["id"]: row for row in (*_read(aside)[1:], *rows)}
                _write(aside, [head, *every.values()])

    def _aside(self, head: Row) -> Path:
        return self.folder / f"replies.kept-{_whose(head)}.jsonl"

    def _own(self, rank: int) -> Path:
        count = self.workers.count
        return self.path if count == 1 else self.folder / f"replies.{rank}-of-{count}.jsonl"

    def _done(self, rank: int) -> Path:
        return self.folder / f".replies.{rank}-of-{self.workers.count}.{_whose(self._head)}.done"

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("replies.*-of-*.jsonl"))

    def _gathered(self) -> dict[str, Row]:
        files = (self._aside(self._head), self.path, *self._parts())
        return {row["id"]: row for path in files for row in self._rows_in(path)}

    def _rows_in(self, path: Path) -> list[Row]:
        lines = _read(path)
        return lines[1:] if lines and lines[0] == self._head else []


def read_replies(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The identity in the first line of a ``replies.jsonl``, and its rows.

    Raises:
        EvaluationError: It is missing, or no such file.
    """
    lines = _read(path)
    if not lines or "identity" not in lines[0]:
        raise EvaluationError(
            f"{path} holds no replies; give a replies.jsonl of a finished scoring"
        )
    return lines[0]["identity"], lines[1:]


def _whose(head: Row) -> str:
    return hashlib.sha256(_line(head).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write(path: Path, lines: Iterable[Row]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", encoding="utf-8", errors="surrogatepass") as file:
        file.writelines(map(_line, lines))
    os.replace(aside, path)


def _read(path: Path) -> list[Row]:
    """Complete lines of the file; the last may have been cut short by a kill.

    Raises:
        EvaluationError: A line before the last is broken.
    """
    try:
        texts = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    lines: list[Row] = []
    for number, text in enumerate(texts[:-1], start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and (number == 1 or {"id", "question", "clip_id"} <= line.keys()):
            lines.append(line)
        elif number < len(texts) - 1:
            raise EvaluationError(
                f"{path}, line {number}, is no reply; move the file away to score again"
            )
    return lines
