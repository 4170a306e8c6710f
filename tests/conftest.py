"""Shared by all tests: one untrained nano, built once, and one thread."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained nano Qwen2.5-VL as a plain Hugging Face folder (read-only by convention)."""
    from spatialprior.backbones.nano.qwen2_5_vl_nano import build

    folder = tmp_path_factory.mktemp("nano") / "qwen2_5_vl"
    build(folder)
    return folder
