"""Matches of one clip, kept for pictures (paper figure 4): plain arrays in one ``.npz`` file."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from spatialprior.core.backbone import Backbone, Encoder
from spatialprior.core.clip import MultiViewClip
from spatialprior.diagnostics.anchors import sample_anchors
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.pck import patch_distance, pooled_similarity, token_positions
from spatialprior.diagnostics.probe import LayerMatcher, ProbedBackbone, inference
from spatialprior.diagnostics.qk import watch_attention

Array = NDArray[np.generic]


@dataclass(frozen=True)
class MatchTrace:
    """What one layer matches in one clip; points are clip pixels ``(x, y)``.

    Attributes:
        images: ``V H W 3`` uint8, the views that have tokens of their own.
        pair: ``2``, asking and answering view of the drawn matches.
        points_a, points_b, truth_b: ``M 2``: anchors, the model's matches, the true matches.
        correct: ``M`` bool.
        query: ``2``, one anchor of view ``pair[0]``.
        heat: ``V R C`` softmax of the query's similarity over each view's tokens; NaN in its own
            view.
        query_truth: ``V 2`` true match of the query, NaN where it is not visible.
        layer: Decoder layer.
    """

    images: Array
    pair: Array
    points_a: Array
    points_b: Array
    truth_b: Array
    correct: Array
    query: Array
    heat: Array
    query_truth: Array
    layer: Array

    def save(self, path: Path) -> None:
        """Write atomically; no pickle."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, **{f.name: getattr(self, f.name) for f in fields(self)})
        os.replace(part, path)


def trace_clip(
    backbone: Backbone, encoder: Encoder, clip: MultiViewClip, layer: int, config: ProbeConfig
) -> MatchTrace:
    """Matches of ``layer`` between two views, and the heatmap of one query over the others.

    The views are the farthest apart in time that share a third of the anchors (else those that
    share most); the query is the anchor, among those seen in most views, nearest the image's
    centre. Both are chosen by geometry alone, so that before and after show the same points.

    Raises:
        ValueError: The clip lacks geometry, or its views share no point.
    """
    probed = cast(ProbedBackbone, backbone)
    batch = encoder([clip.with_questions(())])
    # All directions: the heatmap shows one query in every other view.
    pairs = sample_anchors([clip], batch.token_map, replace(config, direction="both"))
    if not pairs.scored.any():
        raise ValueError(f"clip {clip.clip_id}: its views share no visible point")
    device = next(backbone.parameters()).device
    batch, pairs = batch.to(device), pairs.to(device)
    layout = batch.token_map
    caught: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with inference(backbone):
        rotary = None if config.rope else probed.rotary(batch)
        matcher = LayerMatcher(pairs, batch, config, rotary)

        def keep(index: int, query: torch.Tensor, key: torch.Tensor) -> None:
            if index == layer:
                caught[index] = matcher.select(query, key)

        with watch_attention(probed.attention_modules(), keep):
            backbone(batch)
        logits = pooled_similarity(*caught[layer], matcher.key_valid, config.pooling)

    wanted = {"causal": pairs.view_a > pairs.view_b, "forward": pairs.view_a < pairs.view_b}
    allowed = wanted.get(config.direction, torch.ones_like(pairs.view_a, dtype=torch.bool))
    shared = torch.where(allowed, pairs.scored.float().mean(1), -1.0)
    row = int((shared + (shared >= 1 / 3) * pairs.distance).argmax())
    view_a, view_b = int(pairs.view_a[row]), int(pairs.view_b[row])
    rows, cols = layout.grid[0, view_b].tolist()
    height, width = clip.image_size
    frames = batch.token_map.frames(0).tolist()
    x0, y0, x1, y1 = layout.box[0, view_b].tolist()
    scale = torch.tensor([(x1 - x0) / cols, (y1 - y0) / rows], device=device)
    start = torch.tensor([x0, y0], device=device)
    where = token_positions(layout.grid[:1, view_b], layout.index.shape[-1])[0]
    best = where[logits[row].argmax(-1)]
    truth = layout.to_patch_units(
        pairs.clip[row : row + 1], pairs.view_b[row : row + 1], pairs.points_b[row][None]
    )
    correct = patch_distance(best, truth[0], config.norm) <= config.radius_patches

    seen = torch.zeros_like(pairs.scored[0], dtype=torch.long)
    same_view = pairs.view_a == view_a
    for other in same_view.nonzero().flatten().tolist():
        seen += pairs.scored[other]
    offset = (pairs.points_a[row] - torch.tensor([width / 2, height / 2], device=device)).norm(
        dim=-1
    )
    candidate = int(
        (seen - offset / (width + height)).masked_fill(~pairs.scored[row], -1.0).argmax()
    )

    heat = torch.full((len(frames), rows, cols), torch.nan, device=device)
    query_truth = torch.full((len(frames), 2), torch.nan, device=device)
    for other in same_view.nonzero().flatten().tolist():
        view = int(pairs.view_b[other])
        heat[view] = logits[other, candidate, : rows * cols].softmax(-1).view(rows, cols)
        if pairs.scored[other, candidate]:
            query_truth[view] = pairs.points_b[other, candidate]

    scored = pairs.scored[row]
    tensors = {
        "points_a": pairs.points_a[row][scored],
        "points_b": (start + best * scale)[scored],
        "truth_b": pairs.points_b[row][scored],
        "correct": correct[scored],
        "query": pairs.points_a[row, candidate],
        "heat": heat,
        "query_truth": query_truth,
    }
    return MatchTrace(
        images=torch.stack([clip.images[frame] for frame in frames])
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy(),
        pair=np.array([view_a, view_b]),
        layer=np.array(layer),
        **{name: tensor.cpu().numpy() for name, tensor in tensors.items()},
    )
