"""Relative depth order: of two visual tokens of a frame, which one is nearer?

A small head reads a middle layer and gives every token a score, trained on pairs by the ranking loss of
Burges et al. (RankNet, 2005): ``log(1 + exp(-y (s_i - s_j)))`` with y = 1 where token i is the nearer one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spatialprior import ClipBatch, LossTerm, Needs, PriorInjector, Taps, residual_out
from spatialprior.core.backbone import Backbone
from spatialprior.core.token_map import TokenMap
from spatialprior.geometry.matching import sample_depth


@dataclass(frozen=True)
class TokenPairs:
    """``B V K`` pairs of tokens: ``first`` is nearer than ``second`` where ``valid``."""

    layout: TokenMap
    first: Tensor
    second: Tensor
    valid: Tensor


class DepthOrder(PriorInjector):
    """Ranks the visual tokens of each frame by depth. Discarded at export (the default mode)."""

    @dataclass
    class Config:
        """What a recipe may set.

        Attributes:
            depth_fraction: Which decoder layer to read, as a share of the decoder's depth.
            hidden: Width of the head.
            pairs: Random token pairs per frame and step.
            margin: Least ratio of two depths for their order to count.
            weight: Factor of the loss in the total.
        """

        depth_fraction: float = 0.5
        hidden: int = 32
        pairs: int = 64
        margin: float = 1.05
        weight: float = 0.5

    config: Config

    def needs(self, num_layers: int) -> Needs:
        layer = min(int(self.config.depth_fraction * num_layers), num_layers - 1)
        return Needs(taps=(residual_out(layer),), clip_fields=("depth", "depth_valid"))

    def attach(self, backbone: Backbone) -> None:
        (self.site,) = self.needs(backbone.num_layers).taps
        self.head = nn.Sequential(
            nn.RMSNorm(backbone.hidden_size),
            nn.Linear(backbone.hidden_size, self.config.hidden),
            nn.GELU(),
            nn.Linear(self.config.hidden, 1),
        )

    @torch.no_grad()
    def prepare(self, batch: ClipBatch) -> TokenPairs:
        layout = batch.token_map.to("cpu")
        depth, known = torch.zeros(layout.valid.shape), torch.zeros_like(layout.valid)
        for b, clip in enumerate(batch.clips):
            if clip.depth is None or clip.depth_valid is None:
                continue  # instruction clips may come without geometry
            views = slice(0, clip.num_views)
            centers = layout.centers()[b, views]
            depth[b, views], known[b, views], _ = sample_depth(
                clip.depth, clip.depth_valid, centers
            )
        known &= layout.valid
        first, second = torch.randint(
            depth.shape[-1], (2, *depth.shape[:2], self.config.pairs)
        ).unbind()
        near, far = depth.gather(-1, first), depth.gather(-1, second)
        both = known.gather(-1, first) & known.gather(-1, second)
        ratio = torch.maximum(near, far) / torch.minimum(near, far).clamp(min=1e-6)
        swap = near > far
        first, second = torch.where(swap, second, first), torch.where(swap, first, second)
        device = batch.labels.device
        pairs = (t.to(device) for t in (first, second, both & (ratio >= self.config.margin)))
        return TokenPairs(batch.token_map, *pairs)

    def counts(self, context: TokenPairs) -> dict[str, float]:
        return {"order": float(context.valid.sum())}

    def losses(self, taps: Taps, context: TokenPairs) -> list[LossTerm]:
        tokens = context.layout.gather(taps[self.site])
        score = self.head(tokens.to(self.head[1].weight.dtype)).squeeze(-1)  # B V N
        gap = score.gather(-1, context.first) - score.gather(-1, context.second)
        total = F.softplus(-gap).masked_fill(~context.valid, 0.0).sum()
        return [LossTerm("order", total, self.counts(context)["order"], self.config.weight)]

    def accuracy(self, taps: Taps, context: Any) -> float:
        """Share of pairs in the right order, for monitoring."""
        score = self.head(context.layout.gather(taps[self.site])).squeeze(-1)
        right = score.gather(-1, context.first) > score.gather(-1, context.second)
        return float(right[context.valid].float().mean())
