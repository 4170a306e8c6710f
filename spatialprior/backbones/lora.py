"""LoRA through peft, as an option of a backbone (not a prior): inject by role, merge without side effects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

ROLES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
"""Role -> names of the decoder layer's linear maps that play it."""

_ADAPTER = "default"


@dataclass
class LoraOptions:
    """LoRA on the decoder layers only (never the vision tower, whose MLPs share names with the decoder's).

    Attributes:
        rank: Rank of the update.
        alpha: Scale; the update is multiplied by ``alpha / rank``.
        dropout: Dropout on the adapter's input.
        targets: Roles to adapt, of ``attention`` and ``mlp``.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.0
    targets: tuple[str, ...] = ("attention", "mlp")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"backbone.lora.rank={self.rank}: must be at least 1")
        check_roles(self.targets)


class LoraTargetError(ValueError):
    """LoRA is asked for on parts that the decoder does not have. The message is one line."""


def check_roles(roles: Iterable[str]) -> None:
    """Raise :class:`LoraTargetError` for a role that does not exist, or for none."""
    roles = list(roles)
    if unknown := [role for role in roles if role not in ROLES]:
        raise LoraTargetError(
            f"backbone.lora.targets: unknown target {unknown[0]!r}; choose from {', '.join(ROLES)}"
        )
    if not roles:
        raise LoraTargetError(
            f"backbone.lora.targets=[] adapts nothing; choose from {', '.join(ROLES)}, or backbone.lora=null"
        )


def target_names(model: nn.Module, layers: nn.ModuleList, roles: Iterable[str]) -> list[str]:
    """Full names of the linear maps that play ``roles`` inside ``layers``.

    Raises:
        LoraTargetError: A role is unknown, or no module plays it.
    """
    roles = list(roles)
    check_roles(roles)
    leaf_names = {leaf for role in roles for leaf in ROLES[role]}
    inside = {id(module) for module in layers.modules()}
    names = [
        name
        for name, module in model.named_modules()
        if id(module) in inside
        and isinstance(module, nn.Linear)
        and name.rsplit(".", 1)[-1] in leaf_names
    ]
    if not names:
        raise LoraTargetError(
            f"no linear map named {', '.join(sorted(leaf_names))} in the decoder layers of "
            f"{type(model).__name__}"
        )
    return names


def inject(model: nn.Module, layers: nn.ModuleList, options: LoraOptions) -> list[str]:
    """Freeze ``model``, put LoRA on its decoder layers, and return the names of the adapted maps."""
    names = target_names(model, layers, options.targets)
    model.requires_grad_(False)
    config = LoraConfig(
        r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=names
    )
    inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            # AdamW's small steps vanish in half precision; peft computes in the adapter's dtype and casts back.
            parameter.data = parameter.data.float()
    return names


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """State dict under the names of the model without adapters, the low-rank updates added in.

    Nothing is modified, so a run can export and go on training.
    """
    adapted: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    merged: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        owner = next((name for name in adapted if key.startswith(name + ".")), None)
        if owner is None:
            merged[key] = tensor
        elif key.startswith(f"{owner}.base_layer."):
            leaf = key.removeprefix(f"{owner}.base_layer.")
            if leaf == "weight":
                tensor = (tensor + adapted[owner].get_delta_weight(_ADAPTER)).to(tensor.dtype)
            merged[f"{owner}.{leaf}"] = tensor
    return merged
