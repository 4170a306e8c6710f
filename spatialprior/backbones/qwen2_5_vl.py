"""Qwen2.5-VL (3B, 7B, 32B, 72B)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from transformers import Qwen2_5_VLForConditionalGeneration

from spatialprior.backbones.qwen_vl import QwenVL


class Qwen2_5VL(QwenVL):  # noqa: N801 (the family's own name)
    """Adapter of ``Qwen2_5_VLForConditionalGeneration``."""

    model_class = Qwen2_5_VLForConditionalGeneration

    @classmethod
    def nano_folder(cls) -> Path:
        """A trained base, inside the package."""
        return Path(str(resources.files("spatialprior.backbones") / "nano" / "qwen2_5_vl"))
