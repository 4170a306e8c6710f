"""The model of a run without weights: the stock class, the adapters and the priors, all of fake tensors."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoProcessor

from spatialprior.model import SpatialModel
from spatialprior.plan.published import PlanError, Shape


def fake_model(
    cls: Any,
    settings: Any,
    shape: Shape,
    priors: Mapping[str, tuple[Any, Any]],
    language_weight: float = 1.0,
) -> SpatialModel:
    """Build a run's model as training does, but on fake tensors of the CPU (so that autocast works).

    Args:
        cls, settings: The backbone's class and its settings.
        shape: The model's shape.
        priors: Name -> (class, settings), not attached.
        language_weight: As in training.

    Raises:
        PlanError: The shape is not of this family.
    """
    # Fused attention is what sdpa and flash attention have in common, in FLOPs and in what they keep.
    settings = dataclasses.replace(settings, attention="sdpa")
    bare = cls.on_meta(_with_ids_of_the_nano(cls, shape), settings)
    backbone = cls(bare.hf, processor_of(cls, settings, shape))
    with torch.device("meta"):
        attached = {name: prior(options) for name, (prior, options) in priors.items()}
        model = SpatialModel(backbone, attached, language_weight)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
    backbone.hf.tie_weights()
    return model.train()


def processor_of(cls: Any, settings: Any, shape: Shape) -> Any:
    """The nano's processor with the shape's pictures. Its tokenizer will do: text is assumed by number."""
    processor = AutoProcessor.from_pretrained(cls.nano_folder(), local_files_only=True)
    for name, value in shape.processor.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                old = getattr(getattr(processor, name), key, None)
                same = type(old)(**inner) if isinstance(inner, dict) and old is not None else inner
                setattr(getattr(processor, name), key, same)
        else:
            setattr(processor, name, value)
    processor.tokenizer.model_max_length = 10**9  # the nano's own does not bound the planned model
    if settings.max_pixels is not None:
        cls.limit_pixels(processor, settings.max_pixels)
    return processor


def _with_ids_of_the_nano(cls: Any, shape: Shape) -> Any:
    """The shape's config, with the special tokens of the nano's tokenizer."""
    config = copy.deepcopy(shape.config)
    nano = json.loads((cls.nano_folder() / "config.json").read_text(encoding="utf-8"))
    if config.model_type != nano["model_type"]:
        raise PlanError(
            f"backbone.path={shape.name} is a {config.model_type} model, which {cls.__name__} does not read; "
            "choose the backbone of its family"
        )
    for name, value in nano.items():
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
