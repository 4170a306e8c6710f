"""Replies in a file, found by task and document."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spatialprior.eval.lmms.errors import LmmsError

_IDS = ("id", "idx", "question_id")
_SHAPE = 'expected {"task", "doc_id", "reply"} or {"id", "reply", "record"}'


@dataclass
class StoredReplies:
    """Replies of one model.

    Lines are ``{"task", "doc_id", "reply"}`` (lmms-eval's task and row number), or ours, as an evaluation
    writes them: ``{"id", "reply", "record"}`` with the benchmark's id and some columns of its record. A first
    line ``{"identity": ...}`` is passed over.

    Attributes:
        path: The file.
        by_document: (task, row number) -> reply.
        lines: All others.
    """

    path: Path
    by_document: dict[tuple[str, int], str] = field(default_factory=dict)
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    _indices: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> StoredReplies:
        """Read a ``.jsonl`` file, gzipped or not; a folder is read at its ``replies.jsonl``.

        Raises:
            LmmsError: It is missing, broken, or answers a document twice.
        """
        path = Path(path) / "replies.jsonl" if Path(path).is_dir() else Path(path)
        stored = cls(path)
        opened: Any = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(path, "rt", encoding="utf-8") as file:
                for number, text in enumerate(file, start=1):
                    if text.strip():
                        stored._add(text, f"{path}, line {number}")
        except (OSError, UnicodeDecodeError) as error:
            raise LmmsError(f"{path} cannot be read: {error}") from None
        return stored

    def reply(
        self, task: str, doc_id: int, document: Mapping[str, Any], key: str | None = None
    ) -> str:
        """The reply to one document.

        Args:
            task: Of lmms-eval.
            doc_id: The document's row number.
            document: Its columns.
            key: The column by which lines name their document; ``row`` where ``id`` is its row number; ``None``
                for the first of ``id``, ``idx`` and ``question_id`` that both have.

        Raises:
            LmmsError: There is none, or nothing says which it is.
        """
        found = self.by_document.get((task, int(doc_id)))
        if found is not None:
            return found
        if key is None:
            key = next((k for k in _IDS if k in document and self._index(k)), None)
        if key is None or (key != "row" and key not in document):
            raise LmmsError(
                f"{self.path}: nothing says which reply belongs to a document of {task}; set key=COLUMN of "
                f"{', '.join(map(str, document))}, or key=row where the ids are row numbers"
            )
        name = str(doc_id if key == "row" else document[key])
        index = self._index("id" if key == "row" else key)
        if name not in index:
            raise LmmsError(
                f"{self.path} has no reply to document {doc_id} of {task} ({key} {name!r})"
            )
        return index[name]

    def _index(self, key: str) -> dict[str, str]:
        """Value of a column -> reply."""
        if key not in self._indices:
            index: dict[str, str] = {}
            for line in self.lines:
                record = line.get("record") or {}
                name = record.get(key, line.get("id") if key == "id" else None)
                if name is None:
                    continue
                if str(name) in index:
                    raise LmmsError(f"{self.path}: two replies to {key} {name!r}")
                index[str(name)] = line["reply"]
            self._indices[key] = index
        return self._indices[key]

    def _add(self, text: str, where: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            raise LmmsError(f"{where} is not JSON") from None
        if isinstance(line, dict) and "identity" in line and "reply" not in line:
            return
        if not isinstance(line, dict) or not isinstance(line.get("reply"), str):
            raise LmmsError(f"{where}: {_SHAPE}")
        if "doc_id" not in line:
            if "id" not in line:
                raise LmmsError(f"{where}: {_SHAPE}")
            self.lines.append(line)
            return
        key = (str(line.get("task")), int(line["doc_id"]))
        if key in self.by_document:
            raise LmmsError(f"{where}: a second reply to document {key[1]} of {key[0]}")
        self.by_document[key] = line["reply"]
