"""The model of a run without weights: the stock class, the adapters and the priors, all of fake tensors."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoProcessor

from spatialprior.model import SpatialModel
from spatialprior.plan.published import PlanError, Shape, nano_folder


def fake_model(
    kind: str,
    cls: Any,
    settings: Any,
    shape: Shape,
    priors: Mapping[str, tuple[Any, Any]],
    language_weight: float = 1.0,
) -> SpatialModel:
    """Build a run's model as training does, but on fake tensors of the CPU (so that autocast works).

    Args:
        kind: Family, as in the registry.
        cls, settings: The backbone's class and its settings.
        shape: The model's shape.
        priors: Name -> (class, settings), not attached.
        language_weight: As in training.

    Raises:
        PlanError: The shape is not of this family.
    """
    # Fused attention is what sdpa and flash attention have in common, in FLOPs and in what they keep.
    settings = dataclasses.replace(settings, attention="sdpa")
    config = _with_ids_of(nano_folder(kind), shape)
    with torch.device("meta"):
        backbone = cls(
            _without_weights(cls, config, settings).hf, processor_of(kind, settings, cls, shape)
        )
        attached = {name: prior(options) for name, (prior, options) in priors.items()}
        model = SpatialModel(backbone, attached, language_weight)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
    backbone.hf.tie_weights()
    return model.train()


def _without_weights(cls: Any, config: Any, settings: Any) -> Any:
    if hasattr(cls, "on_meta"):
        return cls.on_meta(config, settings)
    from transformers import Qwen2_5_VLForConditionalGeneration

    from spatialprior.backbones import lora

    config._attn_implementation = settings.attention
    hf = Qwen2_5_VLForConditionalGeneration(config).to(getattr(torch, settings.dtype))
    backbone = cls(hf, None)
    if settings.freeze_vision:
        hf.model.visual.requires_grad_(False)
    if settings.lora is not None:
        lora.inject(hf, backbone.decoder_layers, settings.lora)
    return backbone


def processor_of(kind: str, settings: Any, cls: Any, shape: Shape) -> Any:
    """The family's processor: the nano's tokenizer (token counts are assumed anyway), the shape's images."""
    processor = AutoProcessor.from_pretrained(nano_folder(kind), local_files_only=True)
    for name, value in shape.image_processor.items():
        setattr(processor.image_processor, name, copy.deepcopy(value))
    if settings.max_pixels is not None:
        if hasattr(cls, "limit_pixels"):
            cls.limit_pixels(processor, settings.max_pixels)
        else:
            processor.image_processor.size["longest_edge"] = settings.max_pixels
    return processor


def _with_ids_of(nano: Path, shape: Shape) -> Any:
    """The shape's config, with the special tokens of the nano's tokenizer."""
    config = copy.deepcopy(shape.config)
    ids = json.loads((nano / "config.json").read_text(encoding="utf-8"))
    if config.model_type != ids["model_type"]:
        raise PlanError(
            f"backbone.path={shape.name} is a {config.model_type} model, which backbone.kind={nano.name} does "
            "not read; choose the backbone of its family"
        )
    for name, value in ids.items():
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            setattr(config, name, value)
    return config


def parts(model: SpatialModel) -> list[tuple[nn.Module, str]]:
    """Modules of the stock model whose calls are a part: ``vision``, ``decoder`` and ``lm_head``."""
    backbone: Any = model.backbone
    named = {
        backbone.decoder: "decoder",
        backbone.hf.get_output_embeddings(): "lm_head",
        backbone.hf.get_input_embeddings(): "embeddings",
    }
    found: list[tuple[nn.Module, str]] = []

    def visit(module: nn.Module) -> None:
        if module in named:
            found.append((module, named[module]))
        elif any(inner in named for inner in module.modules()):
            for child in module.children():
                visit(child)
        else:
            found.append((module, "vision"))

    visit(backbone.hf)
    return found
