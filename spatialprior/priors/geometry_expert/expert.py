"""The second set of weights: what a decoder layer does to geometry tokens, one by one (G²VLM section 1 [C]).

Attention itself is the backbone's, shared by all tokens. Three forms:

``full``: of the backbone's width. ``narrow``: a residual stream of its own, less wide; it is carried in the
first channels of the shared tensors, zeros behind it. ``lora`` (file ``lora.py``): the backbone's weights with
low-rank updates. Only ``full`` is what the paper has; the others are cheaper stand-ins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj")
LINEAR_PARTS = (*ATTENTION_INPUTS, "o_proj", "mlp")
INIT_STD = 0.02


@dataclass
class ExpertConfig:
    """What a recipe may set.

    Attributes:
        form: ``full``, ``narrow`` or ``lora``.
        width, mlp_width: Of a ``narrow`` expert's residual stream and of its MLP.
        rank, alpha: Of a ``lora`` expert's updates, which are multiplied by ``alpha / rank``.
        init: ``random`` (the paper) or ``copy`` of the backbone's weights; ``full`` only.
        qk_norm: RMS norm over every query and key head, on the expert alone (upstream forces it on both sides).
        layer_scale: Initial gain of both residual branches; ``None`` has none.
    """

    form: Literal["full", "narrow", "lora"] = "full"
    width: int = 1024
    mlp_width: int = 2816
    rank: int = 64
    alpha: int = 128
    init: Literal["random", "copy"] = "random"
    qk_norm: bool = True
    layer_scale: float | None = 0.01

    def __post_init__(self) -> None:
        if min(self.width, self.mlp_width, self.rank) < 1:
            raise ValueError("expert: width, mlp_width and rank must be at least 1")
        if self.init == "copy" and self.form != "full":
            raise ValueError(f"expert.init=copy goes with expert.form=full, not with {self.form}")


class HeadNorm(nn.Module):
    """RMS norm over each head: ``T (heads * head_dim)`` to the same shape."""

    def __init__(self, head_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))
        self.eps = eps

    def forward(self, tokens: Tensor) -> Tensor:
        width = len(self.weight)
        heads = tokens.view(*tokens.shape[:-1], tokens.shape[-1] // width, width)
        return F.rms_norm(heads, self.weight.shape, self.weight, self.eps).flatten(-2)


class SwiGlu(nn.Module):
    """``down(silu(gate(x)) * up(x))``, without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(tokens)) * self.up_proj(tokens))
        return out


class LayerExpert(nn.Module):
    """The twin of one decoder layer, ``full`` or ``narrow``; called with the name of a part.

    Args:
        parts: The layer's own (:meth:`Backbone.token_parts`), for shapes and, with ``init=copy``, for weights.
        config: See :class:`ExpertConfig`.
        outer: Width of the tokens that go through the decoder.
        head_dim: Of the shared attention.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], config: ExpertConfig, outer: int, head_dim: int
    ) -> None:
        super().__init__()
        narrow = config.form == "narrow"
        self.outer, self.width = outer, config.width if narrow else outer
        eps = norm_eps(parts["input_layernorm"])
        self.input_layernorm = nn.RMSNorm(self.width, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(self.width, eps=eps)
        q, k, v, o = (plain_linear(parts[name]) for name in (*ATTENTION_INPUTS, "o_proj"))
        self.q_proj = nn.Linear(self.width, q.out_features, q.bias is not None)
        self.k_proj = nn.Linear(self.width, k.out_features, k.bias is not None)
        self.v_proj = nn.Linear(self.width, v.out_features, v.bias is not None)
        self.o_proj = nn.Linear(o.in_features, self.width, o.bias is not None)
        up = plain_linear(parts["mlp"].get_submodule("up_proj"))
        self.mlp = SwiGlu(self.width, config.mlp_width if narrow else up.out_features)
        # A family with norms over its heads calls them as parts; otherwise they go with the projections.
        self.norms_apart = "q_norm" in parts
        if config.qk_norm or self.norms_apart:
            self.q_norm, self.k_norm = HeadNorm(head_dim, eps), HeadNorm(head_dim, eps)
        if config.layer_scale is not None:
            self.attention_scale = nn.Parameter(torch.full((self.width,), config.layer_scale))
            self.mlp_scale = nn.Parameter(torch.full((self.width,), config.layer_scale))
        if config.init == "copy":
            copy_weights(self, parts)
        else:
            draw_weights(self)

    def forward(self, part: str, tokens: Tensor, stock: nn.Module) -> Tensor:
        tokens = tokens.to(self.q_proj.weight.dtype)
        if part in ("q_norm", "k_norm"):
            normed: Tensor = self.get_submodule(part)(tokens.flatten(-2))
            return normed.view(tokens.shape)
        if part != "o_proj":
            tokens = tokens[..., : self.width]
        out: Tensor = self.get_submodule(part)(tokens)
        if part in ATTENTION_INPUTS:
            norm = f"{part[0]}_norm"
            if hasattr(self, norm) and not self.norms_apart:
                out = self.get_submodule(norm)(out)
            return out
        gain = {"o_proj": "attention_scale", "mlp": "mlp_scale"}.get(part)
        if gain and hasattr(self, gain):
            out = out * self.get_parameter(gain)
        return F.pad(out, (0, self.outer - self.width))


class FinalNorm(nn.Module):
    """The twin of the norm behind the last layer; with ``copy`` it starts with that one's weights."""

    def __init__(self, stock: nn.Module, outer: int, width: int, *, copy: bool = False) -> None:
        super().__init__()
        self.outer = outer
        gains = (
            stock.get_parameter("weight").detach().clone().float() if copy else torch.ones(width)
        )
        self.weight = nn.Parameter(gains)
        self.eps = norm_eps(stock)

    def forward(self, part: str, tokens: Tensor, stock: nn.Module) -> Tensor:
        own = tokens[..., : len(self.weight)].to(self.weight.dtype)
        normed = F.rms_norm(own, self.weight.shape, self.weight, self.eps)
        return F.pad(normed, (0, self.outer - len(self.weight)))


def plain_linear(module: nn.Module) -> nn.Linear:
    """A projection of the backbone, looking through a LoRA wrapper."""
    linear = getattr(module, "base_layer", module)
    assert isinstance(linear, nn.Linear)
    return linear


def norm_eps(norm: nn.Module) -> float:
    """The small constant of a Hugging Face RMS norm."""
    return float(getattr(norm, "variance_epsilon", 1e-6))


@torch.no_grad()
def copy_weights(expert: nn.Module, parts: Mapping[str, nn.Module]) -> None:
    """Give an expert the weights of the layer whose twin it is."""
    for name, part in parts.items():
        own = expert.get_submodule(name)
        leaves = [(own, part)]
        if name == "mlp":
            linears = ("gate_proj", "up_proj", "down_proj")
            leaves = [(own.get_submodule(n), part.get_submodule(n)) for n in linears]
        for mine, theirs in leaves:
            stock = getattr(theirs, "base_layer", theirs)
            for key, parameter in mine.named_parameters():
                parameter.copy_(stock.get_parameter(key))


def draw_weights(expert: nn.Module) -> None:
    """Normal weights of 0.02, the initialisation of the Qwen families, and biases of zero."""
    for module in expert.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
