"""From queries and keys to matches: similarity, best token, distance to the truth, confidence.

Shapes: ``P`` frame pairs, ``A`` anchors of the query frame, ``N`` tokens of the key frame.
Positions are in patch units of the key frame: token (row, col) has its centre at
(col + 0.5, row + 0.5), the true match is sub-pixel. Source: GASP, diagnostics 1 and 2 (head pooling
and norm are open there, ours to choose).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 24
"""Of a chunk's maps together, so that no map of all pairs is alive at once."""


def pooled_similarity(
    query: Tensor, key: Tensor, key_valid: Tensor, pooling: str = "sum"
) -> Tensor:
    """Similarity pooled over heads.

    Args:
        query: ``P A heads dim``.
        key: ``P N kv_heads dim``; a key head serves ``heads / kv_heads`` consecutive query heads.
        key_valid: ``P N`` bool.
        pooling: ``sum``, ``mean`` or ``max`` of q.k / sqrt(dim) over heads, or ``softmax_mean``.

    Returns:
        ``P A N`` float32 logits (log-probabilities for ``softmax_mean``), -inf where not valid.
    """
    query, key = query.float(), key.float()
    heads, kv_heads, dim = query.shape[2], key.shape[2], query.shape[3]
    grouped = query.unflatten(2, (kv_heads, heads // kv_heads))
    hidden = ~key_valid.unsqueeze(1)
    if pooling in ("sum", "mean"):
        # Over heads, either is one dot product of stacked heads; queries that share a key add up.
        shares = heads if pooling == "mean" else 1
        stacked = grouped.sum(3).flatten(2) / (shares * math.sqrt(dim))
        return torch.bmm(stacked, key.flatten(2).transpose(1, 2)).masked_fill(hidden, -math.inf)
    per_head = torch.einsum("pagjd,pngd->pgjan", grouped, key).flatten(1, 2) / math.sqrt(dim)
    if pooling == "max":
        return per_head.amax(1).masked_fill(hidden, -math.inf)
    if pooling == "softmax_mean":
        return per_head.masked_fill(hidden.unsqueeze(1), -math.inf).softmax(-1).mean(1).log()
    raise ValueError(f"pooling={pooling!r}: choose sum, mean, max or softmax_mean")


@dataclass(frozen=True)
class Neighbourhoods:
    """Which tokens of a key frame lie within a radius of which, for ``P`` frame pairs.

    Attributes:
        table: ``G N K`` tokens near each token of ``G`` different grids, -1 where there are fewer.
        which: ``P`` the grid of each pair's key frame.
    """

    table: Tensor
    which: Tensor

    @classmethod
    def of(cls, grid: Tensor, num_tokens: int, radius: float, norm: str = "l2") -> Neighbourhoods:
        """Of grids ``P 2`` (rows, cols), padded to ``num_tokens``."""
        grids, which = torch.unique(grid, dim=0, return_inverse=True)
        centres = token_positions(grids, num_tokens)
        near = patch_distance(centres.unsqueeze(2), centres.unsqueeze(1), norm) <= radius
        cells = torch.arange(num_tokens, device=grid.device)
        near = near & (cells < grids.prod(-1, keepdim=True)).unsqueeze(1)
        inside, table = near.byte().topk(int(near.sum(-1).max()), dim=-1)
        return cls(table.masked_fill(inside == 0, -1), which)

    def weight(self, share: Tensor, token: Tensor, rows: slice) -> Tensor:
        """Sum of ``share`` (``p A N``) over the tokens near ``token`` (``p A``), of pairs ``rows``."""
        near = self.table[self.which[rows, None], token]
        return share.gather(-1, near.clamp(min=0)).masked_fill(near < 0, 0).sum(-1)


def best_match(
    query: Tensor,
    key: Tensor,
    key_valid: Tensor,
    pooling: str = "sum",
    around: Neighbourhoods | None = None,
) -> tuple[Tensor, Tensor]:
    """Best token and its confidence, ``P A`` each.

    Confidence is a share of the softmax over the key frame's tokens: the best token's own or, with
    ``around``, that of all tokens near it.
    """
    num_pairs, num_anchors, heads, _ = query.shape
    per_pair = num_anchors * key.shape[1] * (1 if pooling in ("sum", "mean") else heads)
    step = max(1, _ELEMENTS_AT_ONCE // max(per_pair, 1))
    tokens, confidences = [], []
    for start in range(0, num_pairs, step):
        rows = slice(start, start + step)
        logits = pooled_similarity(query[rows], key[rows], key_valid[rows], pooling)
        top, token = logits.max(-1)
        if around is None:
            confidence = (top - logits.logsumexp(-1)).exp()
        else:
            confidence = around.weight(logits.softmax(-1), token, rows)
        tokens.append(token)
        confidences.append(confidence)
    if not tokens:
        empty = query.new_zeros((0, num_anchors), dtype=torch.float32)
        return empty.long(), empty
    return torch.cat(tokens), torch.cat(confidences)


def patch_distance(a: Tensor, b: Tensor, norm: str = "l2") -> Tensor:
    """Distance of points ``... 2`` in patch units, Euclidean (``l2``) or per axis (``linf``)."""
    gap = (a - b).abs()
    return gap.amax(-1) if norm == "linf" else gap.square().sum(-1).sqrt()


def token_positions(grid: Tensor, num_tokens: int) -> Tensor:
    """Centres of row-major cells of grids ``P 2`` (rows, cols), in patch units: ``P N 2``."""
    cell = torch.arange(num_tokens, device=grid.device)
    cols = grid[:, 1:].clamp(min=1)
    row = torch.div(cell, cols, rounding_mode="floor")
    return torch.stack([cell % cols + 0.5, row + 0.5], dim=-1).float()


def chance_level(
    truth: Tensor, positions: Tensor, key_valid: Tensor, radius: float, norm: str = "l2"
) -> Tensor:
    """Share of the key frame's tokens that would count as correct: ``P A``.

    Args:
        truth: ``P A 2`` true matches; positions: ``P N 2`` token centres; both in patch units.
        key_valid: ``P N`` bool.
        radius: In patches.
        norm: See :func:`patch_distance`.
    """
    near = patch_distance(truth.unsqueeze(2), positions.unsqueeze(1), norm) <= radius
    near = near & key_valid.unsqueeze(1)
    return near.sum(-1) / key_valid.sum(-1, keepdim=True).clamp(min=1)
