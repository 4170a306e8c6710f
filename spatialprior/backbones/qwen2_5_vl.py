"""Qwen2.5-VL: frames as separate images (its video path merges two frames into one token)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from spatialprior.backbones import lora
from spatialprior.backbones.chat_encoder import ChatEncoder
from spatialprior.backbones.hf import HFBackbone
from spatialprior.core.batch import ClipBatch


class Qwen2_5VL(HFBackbone):  # noqa: N801 (the family's own name)
    """Adapter of ``Qwen2_5_VLForConditionalGeneration``."""

    @dataclass
    class Config:
        """What a recipe may set.

        Attributes:
            path: ``nano`` (embedded), a local Hugging Face folder, or a hub id.
            revision: Commit of the hub id, or ``None``.
            attention: ``sdpa``, ``eager`` or ``flash_attention_2``.
            dtype: ``float32`` or ``bfloat16``: dtype of the weights.
            max_pixels: Upper bound on pixels a frame; ``None`` keeps the processor's own.
            freeze_vision: Keep the vision tower as loaded.
            lora: Train LoRA adapters on the decoder instead of all weights; ``None`` trains all weights.
        """

        path: str = "nano"
        revision: str | None = None
        attention: str = "sdpa"
        dtype: str = "float32"
        max_pixels: int | None = None
        freeze_vision: bool = False
        lora: lora.LoraOptions | None = None

    @classmethod
    def load(cls, config: Config) -> Qwen2_5VL:
        """Load weights and processor (offline when ``path`` is ``nano`` or a folder)."""
        folder = nano_folder() if config.path == "nano" else config.path
        hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder,
            revision=config.revision,
            attn_implementation=config.attention,
            dtype=getattr(torch, config.dtype),
        )
        processor = AutoProcessor.from_pretrained(folder, revision=config.revision)
        if config.max_pixels is not None:
            processor.image_processor.size["longest_edge"] = config.max_pixels
        backbone = cls(hf, processor)
        if config.freeze_vision:
            hf.model.visual.requires_grad_(False)
        if config.lora is not None:
            lora.inject(hf, backbone.decoder_layers, config.lora)
        return backbone

    @property
    def decoder(self) -> nn.Module:
        return self.hf.get_submodule("model.language_model")

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


def nano_folder() -> Path:
    """The embedded nano Qwen2.5-VL: a plain Hugging Face folder inside the package."""
    return Path(str(resources.files("spatialprior.backbones") / "nano" / "qwen2_5_vl"))
