"""Which revision of a data set lies in a folder, from what the hub's own downloader leaves beside it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}")


def revisions_of(root: Path, pattern: str) -> list[str]:
    """Commits that files matching ``pattern`` below ``root`` were downloaded from; none if nothing tells.

    ``huggingface_hub`` names the commit in the path of its cache (``snapshots/COMMIT``), and with ``local_dir``
    in the first line of ``.cache/huggingface/download/FILE.metadata``.
    """
    parts = root.resolve().parts
    for folder, inside in pairwise(parts):
        if folder == "snapshots" and _COMMIT.fullmatch(inside):
            return [inside]
    found = set()
    for path in (root / ".cache" / "huggingface" / "download").glob(f"{pattern}.metadata"):
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
        if _COMMIT.fullmatch(first):
            found.add(first)
    return sorted(found)
