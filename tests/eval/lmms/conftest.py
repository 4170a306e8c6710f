"""Data in published layouts, and a nano export, for the bridge to lmms-eval."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.export import export_model
from spatialprior.model import SpatialModel

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def layouts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layouts", ROOT / "benchmarks" / "layouts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "export"
    backbone = Qwen2_5VL.load(Qwen2_5VL.Config())
    export_model(SpatialModel(backbone, {}), folder, recipe_hash="x")
    return folder
