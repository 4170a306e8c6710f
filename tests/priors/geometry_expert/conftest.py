from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch, _cache_folder: str) -> None:
    """One cache of features for all tests."""
    monkeypatch.setenv("SPATIALPRIOR_CACHE", _cache_folder)
