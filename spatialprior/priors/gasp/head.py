"""The correspondence head H_c of one decoder layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class CorrespondenceHead(nn.Module):
    """RMS norm, then ``Linear D->2E, GELU, Linear 2E->E``, L2-normalised (GASP, head design).

    The norm is the head's own copy of the layer's input norm: a tap inside the layer would break sharding.

    Args:
        dim: Width D of the decoder.
        embedding_dim: Width E of the embedding.
        norm_weight: ``D``, gain of the layer's input norm, copied.
        query_weight: ``Q D``, the layer's query projection for the SVD initialisation; ``None`` keeps
            PyTorch's random one.
    """

    def __init__(
        self, dim: int, embedding_dim: int, norm_weight: Tensor, query_weight: Tensor | None = None
    ) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, 2 * embedding_dim)
        self.contract = nn.Linear(2 * embedding_dim, embedding_dim)
        with torch.no_grad():
            self.norm.weight.copy_(norm_weight)
        if query_weight is not None:
            self.initialise_from_svd(query_weight)

    @torch.no_grad()
    def initialise_from_svd(self, query_weight: Tensor) -> None:
        """Start from ``W_q = U S V^T``.

        The paper says that the head comes from this SVD, not how it is split. Ours: the first map takes the
        leading 2E right singular directions scaled by sqrt(S) (as many as W_q has; the rest stay random and
        small), the second keeps the leading E of them; biases are zero.
        """
        _, scale, right = torch.linalg.svd(query_weight.float(), full_matrices=False)
        rank = min(len(scale), self.expand.out_features)
        self.expand.weight.mul_(scale[:rank].mean().sqrt() * 0.1)
        self.expand.weight[:rank] = scale[:rank].sqrt().unsqueeze(1) * right[:rank]
        self.contract.weight.copy_(torch.eye(self.contract.out_features, self.contract.in_features))
        self.expand.bias.zero_()
        self.contract.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """``... D`` hidden states to ``... E`` unit embeddings (float32, whatever the backbone's dtype)."""
        x = to_unit(hidden.to(self.norm.weight.dtype), 1 / hidden.shape[-1], 1e-6)
        # The norm's gain goes into the weights: a small matrix is scaled instead of every token.
        x = F.linear(x, self.expand.weight * self.norm.weight, self.expand.bias)
        return to_unit(self.contract(F.gelu(x)), 1.0)


def to_unit(x: Tensor, scale: float, eps: float = 1e-12) -> Tensor:
    """``x / sqrt(scale * sum(x^2) + eps)`` along the last dimension: RMS norm for scale 1/D, L2 norm for 1."""
    unit: Tensor = _ToUnit.apply(x, scale, eps)
    return unit


class _ToUnit(torch.autograd.Function):
    """By hand: autograd's own chain takes three times as long, and this runs over every visual token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, eps: float) -> Tensor:
        factor = torch.linalg.vecdot(x, x).mul_(scale).add_(eps).rsqrt_().unsqueeze(-1)
        unit: Tensor = x * factor
        ctx.save_for_backward(unit, factor)
        ctx.scale = scale
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        unit, factor = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit).mul_(-ctx.scale).unsqueeze(-1)
        return torch.addcmul(grad, unit, along).mul_(factor), None, None
