"""Where generated files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root(configured: str | None = None) -> Path:
    """The configured folder, else ``$SPATIALPRIOR_CACHE``, else ``~/.cache/spatialprior``."""
    return Path(
        configured or os.environ.get("SPATIALPRIOR_CACHE") or "~/.cache/spatialprior"
    ).expanduser()
