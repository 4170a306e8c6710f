"""What a recipe may set on every Hugging Face backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spatialprior.backbones.lora import LoraOptions


@dataclass
class HFConfig:
    """Settings that every family shares.

    Attributes:
        path: ``nano`` (embedded), a local Hugging Face folder, or a hub id.
        revision: Commit of the hub id, or ``None``.
        attention: ``sdpa``, ``eager`` or ``flash_attention_2``.
        dtype: ``float32`` or ``bfloat16``: dtype of the weights.
        max_pixels: Upper bound on pixels a frame; ``None`` keeps the processor's own.
        freeze_vision: Keep the vision tower as loaded, with what projects its output.
        lora: Train LoRA adapters on the decoder instead of all weights; ``None`` trains all weights.
    """

    path: str = "nano"
    revision: str | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_pixels: int | None = None
    freeze_vision: bool = False
    lora: LoraOptions | None = None
