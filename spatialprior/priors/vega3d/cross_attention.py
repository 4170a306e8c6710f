"""Fusion by cross-attention: semantic tokens ask, generative tokens of the same view answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spatialprior.priors.vega3d.base import NORM_EPS, Fusion, Init, one_of
from spatialprior.priors.vega3d.projector import draw_as_released, silence

_BASE = 10000.0


class CrossAttention(Fusion):
    """Layers of ``x + Attention(LN(x) + p, LN(F_gen) + p, LN(F_gen))``, then ``x + MLP(LN(x))``.

    The norms of queries, keys and values are three of their own, as upstream. Starts as identity with zero last
    maps in attention and MLP.

    Args:
        channels, width: C and D.
        layers: Number of layers.
        heads: Attention heads; ``None`` takes the largest divisor of D that is at most 8.
        dropout: Of attention weights and in the MLP; upstream trains with 0.1.
        cells: Cells of a view's side that positions are counted in: 14 is upstream's grid.
        init: See :data:`~spatialprior.priors.vega3d.base.Init`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        layers: int = 1,
        heads: int | None = None,
        dropout: float = 0.0,
        cells: float = 14.0,
        init: Init = "identity",
    ) -> None:
        one_of("init", init, get_args(Init))
        if layers < 1:
            raise ValueError(f"fusion: layers={layers} must be at least 1")
        if heads is None:
            heads = max(number for number in range(1, 9) if width % number == 0)
        if heads < 1 or width % heads:
            raise ValueError(f"fusion: heads={heads} must divide the width {width}")
        super().__init__(channels, width)
        self.cells = cells
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(layers))
        draw_as_released(self)
        self.identity_at_attach = init == "identity"
        if self.identity_at_attach:
            for layer in self.layers:
                assert isinstance(layer, _Layer)
                silence(layer.out)
                silence(layer.contract)

    def fuse(
        self, semantic: Tensor, projected: Tensor, groups: Tensor, positions: Tensor | None
    ) -> Tensor:
        if positions is None:
            raise ValueError("fusion: cross_attention needs the positions of the tokens")
        code = sine_cosine(positions.double() * self.cells, self.width).to(semantic.dtype)
        views = _Views.of(groups)
        for layer in self.layers:
            semantic = layer(semantic, projected, code, views)
        return semantic


def sine_cosine(positions: Tensor, width: int) -> Tensor:
    """Position embedding ``T D`` of ``T 2`` float64 coordinates ``(x, y)``, in cells.

    Half of the channels are for y, half for x; of each, sines and then cosines of ``D // 4`` frequencies, from
    1 radian a cell down to 1/10000. What D leaves over is zero.
    """
    quarter = width // 4
    powers = torch.arange(quarter, dtype=torch.float64, device=positions.device) / max(quarter, 1)
    angles = positions.flip(-1).unsqueeze(-1) * _BASE**-powers  # T 2 quarter
    code = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(code, (0, width - 4 * quarter))


@dataclass(frozen=True)
class _Views:
    """Tokens in any order, laid out as ``G L``: one row for each view, short ones padded.

    Attributes:
        shape: ``(G, L)``.
        place: ``T``, where in the flat layout a token goes.
        filled: ``G 1 1 L``, where there is a token; ``None`` where all views are equally long.
    """

    shape: tuple[int, int]
    place: Tensor
    filled: Tensor | None

    @staticmethod
    def of(groups: Tensor) -> _Views:
        _, view, counts = torch.unique(groups, return_inverse=True, return_counts=True)
        shape = len(counts), int(counts.max()) if len(counts) else 0
        order = view.argsort(stable=True)
        rank = torch.arange(len(view), device=view.device)
        starts = counts.cumsum(0) - counts
        place = torch.empty_like(view)
        place[order] = view[order] * shape[1] + rank - starts[view[order]]
        if len(view) == shape[0] * shape[1]:
            return _Views(shape, place, None)
        filled = torch.arange(shape[1], device=view.device) < counts.unsqueeze(-1)
        return _Views(shape, place, filled[:, None, None])

    def lay_out(self, tokens: Tensor, heads: int) -> Tensor:
        """``T D`` to ``G heads L D/heads``, zeros where there is no token."""
        rows = tokens.new_zeros(self.shape[0] * self.shape[1], tokens.shape[-1])
        rows = rows.index_copy(0, self.place, tokens)
        return rows.view(*self.shape, heads, tokens.shape[-1] // heads).transpose(1, 2)

    def pick_up(self, laid_out: Tensor) -> Tensor:
        """Undo :meth:`lay_out`."""
        return laid_out.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, self.place)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        # One vector added to all keys of a view changes no attention weight: neither the keys' norm nor their
        # map has a bias, which could never learn (upstream has both).
        self.query_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.key_norm = nn.LayerNorm(width, eps=NORM_EPS, bias=False)
        self.value_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, projected: Tensor, code: Tensor, views: _Views) -> Tensor:
        query = self.query(self.query_norm(x) + code)
        key = self.key(self.key_norm(projected) + code)
        value = self.value(self.value_norm(projected))
        if len(x):
            answer = F.scaled_dot_product_attention(
                views.lay_out(query, self.heads),
                views.lay_out(key, self.heads),
                views.lay_out(value, self.heads),
                attn_mask=views.filled,
                dropout_p=self.dropout if self.training else 0.0,
            )
            answered = views.pick_up(answer)
        else:  # nothing to attend to, but every weight takes part
            answered = query + key + value
        x = x + self.out(answered)
        return x + self._drop(self.contract(self._drop(F.gelu(self.expand(self.mlp_norm(x))))))

    def _drop(self, tokens: Tensor) -> Tensor:
        return F.dropout(tokens, self.dropout, self.training)
