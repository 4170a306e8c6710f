"""Replies beside a card, read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spatialprior.eval.cards.card import CardError

_ASKED = ("id", "task", "question", "options", "answer", "record")


def read_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The rows that were scored.

    Raises:
        CardError: The file is missing or broken, or holds fewer.
    """
    _, *rows = _lines(path)
    if len(rows) < count:
        raise CardError(f"{path} holds {len(rows)} replies, the card scored {count}; some are lost")
    return rows[:count]


def records_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over all that was asked, with what scoring read of it."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{_text({name: row.get(name) for name in _ASKED})}\n".encode())
    return digest.hexdigest()


def _lines(path: Path) -> list[dict[str, Any]]:
    """Every line of the file; the first says whose replies they are."""
    try:
        texts = [text for text in path.read_bytes().split(b"\n") if text]
    except OSError:
        raise CardError(
            f"{path} does not exist or cannot be read: without replies nothing can be recomputed"
        ) from None
    found = []
    for number, text in enumerate(texts, start=1):
        try:
            found.append(json.loads(text))
        except ValueError:
            raise CardError(f"{path}, line {number}, is not JSON: the file was changed") from None
    if not found or not all(isinstance(line, dict) for line in found):
        raise CardError(f"{path} is no file of replies")
    return found


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False)
