"""Qwen3-VL: visual features enter the decoder before its first layer and, by DeepStack, after its first few.

What leaves layer i (``residual_out[i]``) is read before DeepStack adds to it, what enters layer i+1
(``residual_in[i+1]``) after. In a video each step is its own run of tokens, behind a time in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Qwen3VLForConditionalGeneration

from spatialprior.backbones.hooks import edit_deepstack
from spatialprior.backbones.nano.twin import cached_twin
from spatialprior.backbones.qwen_vl import QwenVL, QwenVLEncoder
from spatialprior.core.backbone import Edit
from spatialprior.core.batch import ClipBatch
from spatialprior.core.sites import Site, deepstack


class Qwen3VLEncoder(QwenVLEncoder):
    """Its video processor bounds the pixels of all frames together."""

    def _video_size(self, num_frames: int) -> dict[str, Any]:
        told = super()._video_size(num_frames)
        if told:
            told["size"]["longest_edge"] *= num_frames
        return told


class Qwen3VL(QwenVL):
    """Adapter of ``Qwen3VLForConditionalGeneration``."""

    model_class = Qwen3VLForConditionalGeneration
    encoder_class = Qwen3VLEncoder

    @classmethod
    def nano_folder(cls) -> Path:
        return cached_twin("qwen3_vl")

    @property
    def _deepstack_sites(self) -> tuple[Site, ...]:
        levels = len(self.hf.config.vision_config.deepstack_visual_indexes)
        return tuple(deepstack(level) for level in range(levels))

    @property
    def edit_sites(self) -> tuple[Site, ...]:
        return (*super().edit_sites, *self._deepstack_sites)

    def _edit_hooks(self, batch: ClipBatch, edits: Mapping[Site, Sequence[Edit]]) -> list[Any]:
        chains = {
            level: edits[site] for level, site in enumerate(self._deepstack_sites) if site in edits
        }
        return super()._edit_hooks(batch, edits) + ([edit_deepstack(chains)] if chains else [])
