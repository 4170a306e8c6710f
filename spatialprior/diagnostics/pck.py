"""From queries and keys to matches: similarity, best token, distance to the truth, confidence.

Shapes: ``P`` frame pairs, ``A`` anchors of the query frame, ``N`` tokens of the key frame.
Positions are in patch units of the key frame: token (row, col) has its centre at
(col + 0.5, row + 0.5), the true match is sub-pixel. Source: GASP, diagnostics 1 and 2 (head pooling
and norm are open there, ours to choose).
"""

from __future__ import annotations

import math

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


def best_match(
    query: Tensor,
    key: Tensor,
    key_valid: Tensor,
    pooling: str = "sum",
    around: Tensor | None = None,
    radius: float = 0.0,
    norm: str = "l2",
) -> tuple[Tensor, Tensor]:
    """Best token and its confidence, ``P A`` each.

    Confidence is a share of the softmax over the key frame's tokens: the best token's own, or, with token
    centres ``around`` (``P N 2``, patch units), that of all tokens within ``radius`` of the best one.
    """
    num_pairs, num_anchors, heads, _ = query.shape
    maps = (1 if pooling in ("sum", "mean") else heads) + (0 if around is None else 4)
    per_pair = num_anchors * key.shape[1] * maps
    step = max(1, _ELEMENTS_AT_ONCE // max(per_pair, 1))
    tokens, confidences = [], []
    for start in range(0, num_pairs, step):
        rows = slice(start, start + step)
        logits = pooled_similarity(query[rows], key[rows], key_valid[rows], pooling)
        top, token = logits.max(-1)
        if around is None:
            confidence = (top - logits.logsumexp(-1)).exp()
        else:
            centres = around[rows]
            best = centres.gather(1, token[..., None].expand(-1, -1, 2))
            near = patch_distance(best.unsqueeze(2), centres.unsqueeze(1), norm) <= radius
            confidence = logits.softmax(-1).mul_(near).sum(-1)
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
