"""Qwen2-VL (2B, 7B)."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2VLForConditionalGeneration

from spatialprior.backbones.nano.twin import cached_twin
from spatialprior.backbones.qwen_vl import QwenVL


class Qwen2VL(QwenVL):
    """Adapter of ``Qwen2VLForConditionalGeneration``."""

    model_class = Qwen2VLForConditionalGeneration

    @classmethod
    def nano_folder(cls) -> Path:
        return cached_twin("qwen2_vl")
