"""Which anchors of which frames are asked for their match, and where the true match lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spatialprior.core.clip import MultiViewClip
from spatialprior.core.token_map import TokenMap
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.geometry.matching import Tolerance, match


@dataclass(frozen=True)
class AnchorPairs:
    """``P`` frame pairs of a batch (view_a asks, view_b answers) with ``A`` anchors each.

    Attributes:
        clip, view_a, view_b: ``P`` long; views are token views (see :class:`TokenMap`).
        distance: ``P`` long, frame distance (difference of the frames' time indices).
        cells: ``P A`` long, token of view_a (row-major) whose centre is the anchor.
        points_a, points_b: ``P A 2`` float, anchor and true match, clip pixels of their frames.
        scored: ``P A`` bool, whether the true match is visible in view_b.
    """

    clip: Tensor
    view_a: Tensor
    view_b: Tensor
    distance: Tensor
    cells: Tensor
    points_a: Tensor
    points_b: Tensor
    scored: Tensor

    def __len__(self) -> int:
        return int(self.clip.shape[0])

    def to(self, device: torch.device | str) -> AnchorPairs:
        return AnchorPairs(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def grid_cells(rows: int, cols: int, per_side: int) -> Tensor:
    """Row-major cells spread evenly over ``rows`` x ``cols``, at most ``per_side`` a side."""
    row, col = (
        ((torch.arange(n) + 0.5) * size / n).long()
        for size, n in ((rows, min(rows, per_side)), (cols, min(cols, per_side)))
    )
    return (row[:, None] * cols + col).flatten()


def view_pairs(num_views: int, direction: str) -> Tensor:
    """``P 2`` (asking view, answering view); the decoder reads views in ascending order."""
    a, b = torch.meshgrid(torch.arange(num_views), torch.arange(num_views), indexing="ij")
    keep = {"causal": a > b, "forward": a < b, "both": a != b}[direction]
    return torch.stack([a[keep], b[keep]], dim=-1)


def sample_anchors(
    clips: Sequence[MultiViewClip], token_map: TokenMap, config: ProbeConfig
) -> AnchorPairs:
    """Pairs of all clips of a batch, on the CPU.

    Raises:
        ValueError: A clip lacks depth, intrinsics or poses.
    """
    parts: dict[str, list[Tensor]] = {f.name: [] for f in fields(AnchorPairs)}
    centers = token_map.centers()
    for c, clip in enumerate(clips):
        if clip.depth is None or clip.intrinsics is None or clip.world_to_cam is None:
            raise ValueError(
                f"the probe needs depth, intrinsics and poses, which clip {clip.clip_id} lacks"
            )
        frames = token_map.frames(c)
        pairs = view_pairs(len(frames), config.direction)
        # Views of a clip share their size, hence their grid.
        rows, cols = token_map.grid[c, 0].tolist()
        cells = grid_cells(rows, cols, config.anchor_grid).expand(len(pairs), -1)
        points_a = centers[c][pairs[:, :1], cells]
        valid = clip.depth_valid if clip.depth_valid is not None else clip.depth > 0
        truth = match(
            points_a,
            frames[pairs],
            clip.depth,
            valid,
            clip.intrinsics,
            clip.world_to_cam,
            tolerance=Tolerance(config.tolerance_abs, config.tolerance_rel),
        )
        frame_ids = torch.tensor(clip.frame_ids)[frames]
        owner = torch.full((len(pairs),), c)
        visible = truth.visible & token_map.covers(owner, pairs[:, 1], truth.points_b)
        found = {
            "clip": owner,
            "view_a": pairs[:, 0],
            "view_b": pairs[:, 1],
            "distance": (frame_ids[pairs[:, 0]] - frame_ids[pairs[:, 1]]).abs(),
            "cells": cells,
            "points_a": points_a,
            "points_b": torch.where(visible.unsqueeze(-1), truth.points_b, 0.0).to(points_a.dtype),
            "scored": visible,
        }
        for name, rows_of_clip in found.items():
            parts[name].extend(rows_of_clip)
    # Clips of other sizes may have fewer anchors: padding (zero, False) is never scored.
    return AnchorPairs(
        **{
            name: pad_sequence(rows_, batch_first=True) if rows_[0].ndim else torch.stack(rows_)
            for name, rows_ in parts.items()
        }
    )
