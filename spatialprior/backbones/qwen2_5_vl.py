"""Qwen2.5-VL: frames as separate images (its video path merges two frames into one token)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from spatialprior.backbones.chat_encoder import ChatEncoder
from spatialprior.backbones.hf import HFBackbone
from spatialprior.backbones.settings import HFConfig
from spatialprior.core.batch import ClipBatch


class Qwen2_5VL(HFBackbone):  # noqa: N801 (the family's own name)
    """Adapter of ``Qwen2_5_VLForConditionalGeneration``."""

    Config = HFConfig
    model_class = Qwen2_5_VLForConditionalGeneration

    @classmethod
    def nano_folder(cls) -> Path:
        return Path(str(resources.files("spatialprior.backbones") / "nano" / "qwen2_5_vl"))

    @classmethod
    def limit_pixels(cls, processor: Any, max_pixels: int) -> None:
        processor.image_processor.size["longest_edge"] = max_pixels

    @property
    def decoder(self) -> nn.Module:
        return self.hf.get_submodule("model.language_model")

    @property
    def vision(self) -> tuple[nn.Module, ...]:
        return (self.hf.get_submodule("model.visual"),)

    @property
    def vision_blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.hf.get_submodule("model.visual.blocks")
        return blocks

    def encoder(self) -> ChatEncoder:
        return ChatEncoder(self.processor)

    def visual_mask(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["input_ids"].eq(self.hf.config.image_token_id)

    def position_ids(self, batch: ClipBatch) -> Tensor:
        """``3 B S``: stock positions of the prefix; every branch goes on from the prefix's end."""
        inputs = batch.inputs
        mask = inputs["attention_mask"] if batch.branches is None else (batch.branches == 0).long()
        positions: Tensor
        positions, _ = self.hf.model.get_rope_index(
            input_ids=inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=mask,
        )
        if batch.branches is None:
            return positions
        start = positions.amax(dim=(0, 2)) + 1
        branches = batch.branches
        in_branch = torch.zeros_like(branches)
        for k in range(1, int(branches.max()) + 1):
            member = branches == k
            in_branch += member * (member.cumsum(1) - 1)
        return torch.where(branches > 0, start.unsqueeze(1) + in_branch, positions)

    def rotary(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        hidden = torch.zeros(1, dtype=self.hf.dtype, device=batch.labels.device)
        rotary = self.decoder.get_submodule("rotary_emb")
        cos, sin = rotary(hidden, self.position_ids(batch))
        if cos.ndim == 3:
            return cos, sin
        # Older releases leave the three axes apart and select the sections when they rotate.
        sections = self.hf.config.get_text_config().rope_parameters["mrope_section"] * 2
        pick = [(table.split(sections, dim=-1)) for table in (cos, sin)]
        joined = [
            torch.cat([part[i % 3] for i, part in enumerate(parts)], dim=-1) for parts in pick
        ]
        return joined[0], joined[1]
