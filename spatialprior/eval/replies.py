"""Replies on disk, written one by one as they come, so that a killed scoring goes on where it stopped."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

log = logging.getLogger(__name__)


class ReplyFile:
    """``replies.jsonl``: a first line that says whose replies these are, then one line an item.

    Replies of another model, benchmark version or setting are not mixed in: the file is begun afresh.

    Args:
        path: The file.
        identity: What must agree for replies to be reused.

    Attributes:
        replies: Item id -> line, of everything answered so far.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.replies: dict[str, dict[str, Any]] = {}
        head = {"identity": dict(identity)}
        lines = _read(path)
        if lines and lines[0] != head:
            log.warning("%s holds replies of another model or setting; starting afresh", path)
            lines = []
        self.replies = {line["id"]: line for line in lines[1:]}
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.part")
        kept = [head, *self.replies.values()]
        aside.write_text("".join(_line(item) for item in kept), encoding="utf-8")
        os.replace(aside, path)  # a torn last line is gone
        self._file: TextIO | None = None

    def __enter__(self) -> ReplyFile:
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()

    def add(self, line: dict[str, Any]) -> None:
        """Append one reply (with ``id``); it survives a kill from here on."""
        assert self._file is not None, "use the file as a context manager"
        self.replies[line["id"]] = line
        self._file.write(_line(line))
        self._file.flush()


def _line(item: Mapping[str, Any]) -> str:
    return json.dumps(item, ensure_ascii=False) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    """Complete lines of the file; the last may have been cut short by a kill.

    Raises:
        ValueError: A line before the last is broken.
    """
    if not path.exists():
        return []
    texts = path.read_bytes().split(b"\n")
    lines = []
    for number, text in enumerate(texts[:-1], start=1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if number == len(texts) - 1:
                break
            raise ValueError(
                f"{path}, line {number}, is not JSON; remove the file to score again"
            ) from None
    return lines
