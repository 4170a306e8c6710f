"""Softmax matching of anchors against candidates, in as few passes over its map as there can be.

With ``s_ij = a_i . c_j`` and ``p_ij = exp(s_ij) / sum_k exp(s_ik)``, InfoNCE wants s at the true match and the
logarithm of the sum, depth consistency wants means under ``p_i``. All of them come out of one map, and so do
their gradients: ``d/ds_ij = p_ij (h_i + sum_m g_im (x_jm - mean_im)) + w_ij t_i`` for incoming gradients t (of
the match), h (of the logarithm) and g (of the means). By hand, because autograd would walk over the map a dozen
times.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SoftMatch(NamedTuple):
    """What the losses need of the map.

    Attributes:
        match_logit: ``P A``, ``sum_j w_ij s_ij`` over the cells that hold the true match.
        log_normaliser: ``P A``, ``logsumexp_j s_ij``.
        means: ``P A M``, ``sum_j p_ij x_j``.
    """

    match_logit: Tensor
    log_normaliser: Tensor
    means: Tensor


def soft_match(
    anchors: Tensor,
    candidates: Tensor,
    cells: Tensor,
    weights: Tensor,
    values: Tensor,
    hidden: Tensor | None = None,
) -> SoftMatch:
    """Match every anchor softly.

    Args:
        anchors: ``P A E``, scaled by one over the temperature.
        candidates: ``P N E``.
        cells, weights: ``P A 4``, the candidates (none hidden) that hold the true match, and their shares.
        values: ``P N M``, finite constants to average (M may be 0).
        hidden: ``P N`` bool, candidates that do not take part (never all of a row); ``None``: all do.
    """
    return SoftMatch(*_SoftMatch.apply(anchors, candidates, cells, weights, values, hidden))


class _SoftMatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        cells: Tensor,
        weights: Tensor,
        values: Tensor,
        hidden: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = torch.bmm(anchors, candidates.transpose(1, 2))  # P A N, the map
        weights = weights.to(scores.dtype)
        match = (scores.gather(2, cells) * weights).sum(-1)
        if hidden is not None:
            scores.masked_fill_(hidden.unsqueeze(1), float("-inf"))
        top = scores.amax(-1, keepdim=True)
        scores.sub_(top).exp_()
        ones = torch.ones_like(candidates[..., :1])  # a column that adds up the scores themselves
        values = torch.cat([values.to(scores.dtype), ones], dim=-1)
        sums = torch.bmm(scores, values)
        total = sums[..., -1:]
        means = sums[..., :-1] / total
        ctx.save_for_backward(anchors, candidates, cells, weights, values, scores, total, means)
        return match, (top + total.log()).squeeze(-1), means

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_match: Tensor, grad_normaliser: Tensor, grad_means: Tensor
    ) -> tuple[Tensor | None, ...]:
        anchors, candidates, cells, weights, values, scores, total, means = ctx.saved_tensors
        constant = grad_normaliser.unsqueeze(-1) - (grad_means * means).sum(-1, keepdim=True)
        factors = torch.cat([grad_means, constant], dim=-1) / total
        grad = torch.bmm(factors, values.transpose(1, 2)).mul_(scores)
        grad.scatter_add_(2, cells, grad_match.unsqueeze(-1) * weights)
        grad_candidates = torch.bmm(grad.transpose(1, 2), anchors)
        return torch.bmm(grad, candidates), grad_candidates, None, None, None, None
