from __future__ import annotations

from typing import Any

import pytest
from colours import Colours

from spatialprior.registry import ENCODERS


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The encoder ``colours`` in the registry, and a cache of the test's own."""
    ENCODERS.names()
    monkeypatch.setattr(ENCODERS, "_entries", dict(ENCODERS._entries))
    monkeypatch.setattr(ENCODERS, "_loaded", dict(ENCODERS._loaded))
    monkeypatch.setattr(ENCODERS, "_frozen", False)
    ENCODERS.add("colours", Colours)
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path / "cache"))
