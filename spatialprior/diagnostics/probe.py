"""The probe: one forward pass a batch, matches of every decoder layer, figures over all clips.

Source: GASP, diagnostics 1 to 3, on the model's own queries and keys (never a head's embeddings).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from spatialprior.core.backbone import Backbone, Encoder
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.diagnostics.anchors import AnchorPairs, sample_anchors
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.pck import (
    Neighbourhoods,
    best_match,
    chance_level,
    patch_distance,
    token_positions,
)
from spatialprior.diagnostics.qk import pick, undo_rotary, watch_attention
from spatialprior.diagnostics.result import ProbeResult, Samples


class ProbedBackbone(Protocol):
    """What the probe asks of a backbone beyond a forward pass."""

    def attention_modules(self) -> list[nn.Module]: ...

    def rotary(self, batch: ClipBatch) -> tuple[Tensor, Tensor]: ...


class LayerMatcher:
    """Consumes queries and keys layer by layer; keeps each anchor's best token and confidence."""

    def __init__(
        self,
        pairs: AnchorPairs,
        batch: ClipBatch,
        config: ProbeConfig,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> None:
        layout = batch.token_map
        self.clip, self.pooling, self.rotary = pairs.clip, config.pooling, rotary
        self.query_index = layout.index[pairs.clip, pairs.view_a].gather(1, pairs.cells)
        self.key_index = layout.index[pairs.clip, pairs.view_b]
        self.key_valid = layout.valid[pairs.clip, pairs.view_b]
        self.around: Neighbourhoods | None = None
        if config.confidence == "softmax_near":
            grid = layout.grid[pairs.clip, pairs.view_b]
            self.around = Neighbourhoods.of(
                grid, layout.index.shape[-1], config.radius_patches, config.norm
            )
        self.tokens: dict[int, Tensor] = {}
        self.confidence: dict[int, Tensor] = {}

    def select(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Anchors' queries ``P A heads dim``, keys of the answering views ``P N kv_heads dim``."""
        q, k = pick(query, self.clip, self.query_index), pick(key, self.clip, self.key_index)
        if self.rotary is not None:
            cos, sin = (table.float() for table in self.rotary)
            at = self.clip[:, None]
            q = undo_rotary(q.float(), cos[at, self.query_index], sin[at, self.query_index])
            k = undo_rotary(k.float(), cos[at, self.key_index], sin[at, self.key_index])
        return q, k

    def __call__(self, layer: int, query: Tensor, key: Tensor) -> None:
        q, k = self.select(query, key)
        self.tokens[layer], self.confidence[layer] = best_match(
            q, k, self.key_valid, self.pooling, self.around
        )


def match_batch(
    backbone: Backbone, batch: ClipBatch, pairs: AnchorPairs, config: ProbeConfig
) -> tuple[Tensor, Tensor]:
    """Best token and confidence of every layer, ``P A L`` each (one forward pass)."""
    probed = cast(ProbedBackbone, backbone)
    rotary = None if config.rope else probed.rotary(batch)
    matcher = LayerMatcher(pairs, batch, config, rotary)
    with watch_attention(probed.attention_modules(), matcher):
        backbone(batch)
    layers = range(backbone.num_layers)
    missing = [layer for layer in layers if layer not in matcher.tokens]
    if missing:
        raise RuntimeError(
            f"layers {missing} never called transformers' attention interface; "
            "load the model with attention=sdpa, eager or flash_attention_2"
        )
    return (
        torch.stack([matcher.tokens[i] for i in layers], dim=-1),
        torch.stack([matcher.confidence[i] for i in layers], dim=-1),
    )


def score_batch(
    backbone: Backbone, encoder: Encoder, clips: Sequence[MultiViewClip], config: ProbeConfig
) -> Samples:
    """Scores of every visible anchor of a batch of clips."""
    # Later text cannot reach the visual tokens of a causal decoder: questions would only cost time.
    batch = encoder([clip.with_questions(()) for clip in clips])
    pairs = sample_anchors(clips, batch.token_map, config)
    device = next(backbone.parameters()).device
    batch, pairs = batch.to(device), pairs.to(device)
    layout, norm, radius = batch.token_map, config.norm, config.radius_patches
    tokens, confidence = match_batch(backbone, batch, pairs, config)

    positions = token_positions(layout.grid[pairs.clip, pairs.view_b], layout.index.shape[-1])
    truth = layout.to_patch_units(pairs.clip, pairs.view_b, pairs.points_b)
    same_place = layout.to_patch_units(pairs.clip, pairs.view_b, pairs.points_a)
    row = torch.arange(len(pairs), device=device)[:, None, None]
    correct = patch_distance(positions[row, tokens], truth.unsqueeze(2), norm) <= radius
    valid = layout.valid[pairs.clip, pairs.view_b]
    chance = chance_level(truth, positions, valid, radius, norm)
    static = patch_distance(same_place, truth, norm) <= radius

    scored = pairs.scored
    which = torch.arange(len(pairs), device=device)[:, None].expand_as(scored)[scored]
    return Samples.of_batch(
        correct=correct[scored],
        confidence=confidence[scored],
        chance=chance[scored],
        static=static[scored],
        distance=pairs.distance[which],
        pair=which,
        clip_ids=[clips[c].clip_id for c in pairs.clip[which].tolist()],
        source_ids=[clips[c].source_id for c in pairs.clip[which].tolist()],
    )


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the former mode comes back."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def probe(
    backbone: Backbone, encoder: Encoder, clips: Iterable[MultiViewClip], config: ProbeConfig
) -> ProbeResult:
    """Measure how well each layer's queries and keys match the same 3D point across frames.

    Args:
        backbone: The model; it stays as it is.
        encoder: ``backbone.encoder()``.
        clips: Clips with depth, intrinsics and poses, two views or more.
        config: Settings, repeated in the result.

    Raises:
        ValueError: A clip lacks geometry, or no anchor of any clip is visible in another frame.
    """
    batches = []
    stream = iter(clips)
    with inference(backbone):
        while group := list(islice(stream, config.batch_clips)):
            batches.append(score_batch(backbone, encoder, group, config))
    return ProbeResult.from_samples(Samples.concatenate(batches), config.settings())
