from __future__ import annotations

from pathlib import Path

import pytest

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.export import export_model
from spatialprior.model import SpatialModel


@pytest.fixture(scope="session")
def exported(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained nano, exported."""
    backbone = Qwen2_5VL.load(Qwen2_5VL.Config(path=str(nano_folder)))
    folder = tmp_path_factory.mktemp("run") / "export"
    export_model(SpatialModel(backbone, {}), folder, recipe_hash="x")
    return folder
