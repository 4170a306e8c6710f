"""The cheapest expert: the backbone's own weights with low-rank updates. Not in the paper."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spatialprior.priors.geometry_expert.expert import (
    ATTENTION_INPUTS,
    ExpertConfig,
    HeadNorm,
    norm_eps,
    plain_linear,
)

_MLP = ("gate_proj", "up_proj", "down_proj")


class LowRank(nn.Module):
    """``scale * up(down(x))``, zero at first."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: int) -> None:
        super().__init__()
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        self.scale = alpha / rank

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.scale * self.up(self.down(tokens))
        return out


class LoraLayerExpert(nn.Module):
    """The twin of one decoder layer, its weights those of the backbone plus low-rank updates.

    What adapters of its own the backbone has (LoRA on the semantic side) play no part here. Where the
    backbone's weights train, this expert changes with them.

    Args:
        parts: The layer's own.
        config: See :class:`ExpertConfig`.
        head_dim: Of the shared attention.
    """

    def __init__(self, parts: Mapping[str, nn.Module], config: ExpertConfig, head_dim: int) -> None:
        super().__init__()
        linears = {name: parts[name] for name in (*ATTENTION_INPUTS, "o_proj")}
        linears |= {name: parts["mlp"].get_submodule(name) for name in _MLP}
        self.updates = nn.ModuleDict(
            {
                name: LowRank(plain_linear(linear), config.rank, config.alpha)
                for name, linear in linears.items()
            }
        )
        eps = norm_eps(parts["input_layernorm"])
        self.norms_apart = "q_norm" in parts
        self.norms = nn.ParameterDict(
            {
                name: nn.Parameter(part.get_parameter("weight").detach().clone().float())
                for name, part in parts.items()
                if name.endswith("norm")
            }
        )
        self.eps = eps
        if config.qk_norm and not self.norms_apart:
            self.q_norm, self.k_norm = HeadNorm(head_dim, eps), HeadNorm(head_dim, eps)
        width = plain_linear(parts["o_proj"]).out_features
        if config.layer_scale is not None:
            self.attention_scale = nn.Parameter(torch.full((width,), config.layer_scale))
            self.mlp_scale = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(self, part: str, tokens: Tensor, stock: nn.Module) -> Tensor:
        if part in self.norms:
            weight = self.norms[part]
            return F.rms_norm(tokens.to(weight.dtype), weight.shape, weight, self.eps)
        if part == "mlp":
            gate, up, down = (stock.get_submodule(name) for name in _MLP)
            hidden = F.silu(self._linear("gate_proj", tokens, gate))
            out = self._linear("down_proj", hidden * self._linear("up_proj", tokens, up), down)
        else:
            out = self._linear(part, tokens, stock)
        if part in ("q_proj", "k_proj") and hasattr(self, "q_norm"):
            out = self.get_submodule(f"{part[0]}_norm")(out)
        gain = {"o_proj": "attention_scale", "mlp": "mlp_scale"}.get(part)
        return out * self.get_parameter(gain) if gain and hasattr(self, gain) else out

    def _linear(self, name: str, tokens: Tensor, stock: nn.Module) -> Tensor:
        linear = plain_linear(stock)
        update: LowRank = self.updates[name]  # type: ignore[assignment]
        shared: Tensor = F.linear(tokens.to(linear.weight.dtype), linear.weight, linear.bias)
        out: Tensor = shared + update(tokens.to(update.down.weight.dtype)).to(shared.dtype)
        return out
