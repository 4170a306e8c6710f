"""GASP as an injector: observes decoder layers, adds two losses, leaves nothing behind.

Re-implementation from the paper (arXiv 2605.30231). Constants that the paper does not give are ours and
are marked so in ``recipes/prior/gasp.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spatialprior.core.backbone import Backbone
from spatialprior.core.batch import ClipBatch
from spatialprior.core.injector import ExportMode, Needs, PriorInjector
from spatialprior.core.sites import Taps, residual_out, resolve_layers
from spatialprior.core.terms import LossTerm
from spatialprior.geometry.matching import Tolerance
from spatialprior.objectives.contrast import info_nce
from spatialprior.objectives.depth import depth_consistency, expected_depth
from spatialprior.objectives.sampling import bilinear_sample
from spatialprior.objectives.soft_match import SoftMatch, soft_match
from spatialprior.priors.gasp.head import CorrespondenceHead, to_unit
from spatialprior.priors.gasp.targets import MatchTargets, PairsPart, match_targets


class Gasp(PriorInjector):
    """Correspondence heads on decoder layers, with contrastive and depth-consistency losses."""

    export_mode = ExportMode.DISCARD
    identity_at_attach = True

    @dataclass
    class Config:
        """What a recipe may set.

        Attributes:
            layers: ``all``, ``every_N``, ``FIRST-LAST`` or a list of decoder layers.
            embedding_dim: Width of the embeddings.
            temperature: Softmax temperature tau.
            initialization: ``svd`` of the layer's query projection, or ``random``.
            negatives: ``target_frame``, or ``all_other_frames`` (every frame but the anchor's).
            corr_weight, depth_weight: Factors of the two losses in the total.
            tokens: What the losses are on: the views' ``visual`` tokens, the ``reserved`` tokens of another
                prior (a geometry expert's), or ``both``.
            anchors: Sides of the anchor grids.
            max_anchors: At most this many visible anchors a frame pair and step; 0 keeps all.
            pairs: ``all`` ordered frame pairs, or ``anchor`` (first frame with each other).
            lr_multiple: The heads' learning rate as a multiple of the base rate.
            tolerance_abs, tolerance_rel: Occlusion test, metres and share of the depth.
            chunk_pairs: Frame pairs whose similarity map is alive at once; 0 takes all of a layer.
            recompute: Recompute a layer's maps in the backward pass instead of keeping them.
        """

        layers: Any = "all"
        embedding_dim: int = 128
        temperature: float = 0.07
        initialization: str = "svd"
        negatives: str = "target_frame"
        tokens: str = "visual"
        corr_weight: float = 1.0
        depth_weight: float = 1.0
        anchors: list[int] = field(default_factory=lambda: [8, 24])
        max_anchors: int = 0
        pairs: str = "all"
        lr_multiple: float = 4.0
        tolerance_abs: float = 0.03
        tolerance_rel: float = 0.03
        chunk_pairs: int = 0
        recompute: bool = True

        def __post_init__(self) -> None:
            _one_of("initialization", self.initialization, ("svd", "random"))
            _one_of("negatives", self.negatives, ("target_frame", "all_other_frames"))
            _one_of("pairs", self.pairs, ("all", "anchor"))
            _one_of("tokens", self.tokens, ("visual", "reserved", "both"))
            if self.temperature <= 0:
                raise ValueError(f"gasp: temperature={self.temperature} must be positive")
            if not self.anchors or min(self.anchors) < 1:
                raise ValueError(f"gasp: anchors={self.anchors} must name at least one grid side")

    config: Config

    def needs(self, num_layers: int) -> Needs:
        layers = resolve_layers(self.config.layers, num_layers)
        return Needs(
            taps=tuple(residual_out(layer) for layer in layers),
            clip_fields=("depth", "depth_valid", "intrinsics", "world_to_cam"),
            reads_reserved=self.config.tokens != "visual",
        )

    def attach(self, backbone: Backbone) -> None:
        config = self.config
        self.layers = resolve_layers(config.layers, backbone.num_layers)
        self.heads = nn.ModuleDict(
            {
                str(layer): CorrespondenceHead(
                    backbone.hidden_size,
                    config.embedding_dim,
                    backbone.input_norm_weight(layer).float(),
                    backbone.query_weight(layer) if config.initialization == "svd" else None,
                )
                for layer in self.layers
            }
        )

    def prepare(self, batch: ClipBatch) -> list[MatchTargets]:
        """Matches among the tokens of each kind, where there are any."""
        config = self.config
        layouts = [batch.token_map] if config.tokens != "reserved" else []
        if config.tokens != "visual":
            assert batch.reserved is not None, "encoded without reserved tokens"
            layouts.append(batch.reserved.token_map)
        found = [
            match_targets(
                replace(batch, token_map=layout),
                grids=list(config.anchors),
                pairs=config.pairs,
                max_anchors=config.max_anchors,
                tolerance=Tolerance(config.tolerance_abs, config.tolerance_rel),
            )
            for layout in layouts
            if layout.num_views
        ]
        return [targets for targets in found if targets is not None and targets.num_valid]

    def counts(self, context: list[MatchTargets]) -> dict[str, float]:
        """Each visible anchor counts once a layer, so the weights do not depend on the number of layers."""
        counts = {"corr": float(sum(t.num_valid for t in context) * len(self.layers))}
        if self.config.depth_weight:
            scored = sum(int(t.depth_scored.sum()) for t in context)
            counts["depth"] = float(scored * len(self.layers))
        return counts

    def losses(self, taps: Taps, context: list[MatchTargets]) -> list[LossTerm]:
        config = self.config
        counts = self.counts(context)
        if not context:
            # The sum of nothing: zero and connected, whatever the values (0 * inf would be NaN). Each head is
            # called all the same, since sharding gathers weights, in step with other processes, as it is.
            nothing = [taps[residual_out(layer)].flatten(0, 1)[:0] for layer in self.layers]
            heads = [self.heads[str(layer)] for layer in self.layers]
            empty = [head(rows) for head, rows in zip(heads, nothing, strict=True)]
            corr = depth = torch.stack([part.sum().float() for part in empty]).sum()
        else:
            # Similarities over a small temperature need the full precision of float32.
            device = taps[residual_out(self.layers[0])].device.type
            with torch.autocast(device, enabled=False):
                sums = [self._sums(taps, targets) for targets in context]
            corr, depth = (torch.stack(parts).sum() for parts in zip(*sums, strict=True))
        terms = [LossTerm("corr", corr, counts["corr"], config.corr_weight)]
        if config.depth_weight:
            terms.append(LossTerm("depth", depth, counts["depth"], config.depth_weight))
        return terms

    def optim_groups(self, base_lr: float) -> Iterable[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": base_lr * self.config.lr_multiple}]

    # --- all layers -----------------------------------------------------------------------

    def _sums(self, taps: Taps, targets: MatchTargets) -> tuple[Tensor, Tensor]:
        """Both losses, summed over anchors and layers: maps layer by layer, what is left of them at once."""
        parts = targets.parts(self.config.chunk_pairs, with_depth=self.config.depth_weight != 0)
        hidden = [taps[residual_out(layer)] for layer in self.layers]
        rows = targets.token_rows(hidden[0].shape[1])
        by_layer = [
            self._match(layer, states, rows, parts)
            for layer, states in zip(self.layers, hidden, strict=True)
        ]
        match, normaliser, means = (torch.stack(field) for field in zip(*by_layer, strict=True))
        corr = info_nce(match, normaliser, targets.valid)
        if not self.config.depth_weight:
            return corr, corr.new_zeros(())
        expected = expected_depth(means)
        return corr, depth_consistency(expected, targets.depth, targets.depth_scored)

    # --- one layer ------------------------------------------------------------------------

    def _match(self, layer: int, hidden: Tensor, rows: Tensor, parts: list[PairsPart]) -> SoftMatch:
        """Match all anchors by the embeddings of one layer."""
        # Padding reads position 0, a finite state like any other, and takes no part later on.
        tokens = hidden.flatten(0, 1).index_select(0, rows)
        embeddings = self.heads[str(layer)](tokens.view(*parts[0].layout.index.shape, -1))
        found = []
        for part in parts:
            if self.config.recompute:
                found.append(checkpoint(self._match_part, embeddings, part, use_reentrant=False))
            else:
                found.append(self._match_part(embeddings, part))
        if len(found) == 1:
            return SoftMatch(*found[0])
        return SoftMatch(*(torch.cat(field) for field in zip(*found, strict=True)))

    def _match_part(self, embeddings: Tensor, part: PairsPart) -> tuple[Tensor, Tensor, Tensor]:
        """Some frame pairs; the ``P A N`` similarity map lives only in here."""
        width, (pairs, anchors_each) = embeddings.shape[-1], part.shape
        # Anchors are read from one table of all tokens, so that no frame is laid out once per pair.
        sampled = bilinear_sample(embeddings.view(1, -1, width), part.rows_a, part.weights_a)
        # Unit vectors over the temperature, in one go.
        anchors = to_unit(sampled, self.config.temperature**2).view(len(part.cells_b), -1, width)
        frames = embeddings.flatten(0, 1)
        candidates = frames if part.frame_b is None else frames.index_select(0, part.frame_b)
        match, normaliser, means = soft_match(
            anchors, candidates, part.cells_b, part.weights_b, part.values, part.hidden
        )
        if self.config.negatives == "all_other_frames":
            normaliser = self._over_all_frames(anchors.view(pairs, -1, width), embeddings, part)
        shape = (pairs, anchors_each)
        return match.view(shape), normaliser.view(shape), means.view(*shape, -1)

    def _over_all_frames(self, anchors: Tensor, embeddings: Tensor, part: PairsPart) -> Tensor:
        """Log-normaliser ``P A`` over the patches of every frame but the anchor's."""
        every = embeddings[part.clip].flatten(1, 2)
        view = torch.arange(embeddings.shape[1], device=every.device).repeat_interleave(
            embeddings.shape[2]
        )
        seen = part.layout.valid[part.clip].flatten(1) & (view != part.view_a.unsqueeze(1))
        similarity = anchors @ every.transpose(1, 2)
        return similarity.masked_fill(~seen.unsqueeze(1), float("-inf")).logsumexp(-1)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"gasp: {name}={value!r}; choose one of {', '.join(choices)}")
