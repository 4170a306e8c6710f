"""Which files an instruction data set consists of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from spatialprior.data.conversations.scan import scan_records

log = logging.getLogger(__name__)

SUFFIXES = (".json", ".jsonl")


def instruction_files(paths: Sequence[str]) -> list[Path]:
    """Files with records, sorted within each folder; a folder's other JSON (prompts, metadata) is left out.

    Raises:
        ValueError: A path does not exist, a named file holds no records, or nothing was found.
    """
    found: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            reasons = {file: _unusable(file) for file in files}
            for file, reason in reasons.items():
                if reason:
                    log.info("left out %s: %s", file, reason)
            usable = [file for file in files if not reasons[file]]
            if not usable:
                raise ValueError(
                    f"path={text}: the folder holds no file {' or '.join('*' + s for s in SUFFIXES)} "
                    f"with conversations ({len(files)} looked at)"
                )
            found += usable
        elif path.is_file():
            if reason := _unusable(path):
                raise ValueError(f"path={text}: {reason}")
            found.append(path)
        else:
            raise ValueError(
                f"path={text}: no such file or folder; give a .json, a .jsonl or a folder"
            )
    return list(dict.fromkeys(found))


def _unusable(path: Path) -> str | None:
    """Why a file is not one of records, judged by its first."""
    try:
        first = next(islice(scan_records(path), 1), None)
    except ValueError as error:
        return str(error)
    if first is None:
        return "no record in it"
    record = first[2]
    if isinstance(record, Mapping) and ("conversations" in record or "messages" in record):
        return None
    keys = ", ".join(list(map(str, record))[:6]) if isinstance(record, Mapping) else "none"
    return f"its first record has neither conversations nor messages (keys: {keys})"
