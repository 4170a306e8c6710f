"""Parameters by owner, counted on the modules themselves."""

from __future__ import annotations

from collections import Counter
from typing import Any

from spatialprior.model import SpatialModel

OWNERS = ("vision", "embeddings", "decoder", "lora")
"""Owners within the backbone; ``vision`` includes what projects its output, ``embeddings`` the LM head."""


def parameters_by_owner(model: SpatialModel) -> dict[str, tuple[int, int]]:
    """Owner -> (all, trained). Shared tensors count once; priors are ``priors.NAME``."""
    backbone: Any = model.backbone
    tables = (backbone.hf.get_input_embeddings(), backbone.hf.get_output_embeddings())
    embeddings = {id(p) for module in tables for p in module.parameters()}
    decoder = {id(p) for p in backbone.decoder.parameters()}
    every: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if name.startswith("priors."):
            owner = ".".join(name.split(".")[:2])
        elif "lora_" in name:
            owner = "lora"
        elif id(parameter) in embeddings:
            owner = "embeddings"
        else:
            owner = "decoder" if id(parameter) in decoder else "vision"
        every[owner] += parameter.numel()
        trained[owner] += parameter.numel() * parameter.requires_grad
    order = [*OWNERS, *sorted(owner for owner in every if owner not in OWNERS)]
    return {owner: (every[owner], trained[owner]) for owner in order if every[owner]}
