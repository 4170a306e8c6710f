"""Ground-truth matches of a batch, addressed by token, ready for the losses of every layer."""

from __future__ import annotations

import zlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.token_map import TokenMap
from spatialprior.geometry.matching import (
    Tolerance,
    all_pairs,
    anchor_pairs,
    grid_points,
    match,
    sample_depth,
)
from spatialprior.objectives.depth import depth_values
from spatialprior.objectives.sampling import bilinear_cells

_LOOKED_AT = 2  # candidates for each anchor to keep: enough where half of a view is shared


@dataclass(frozen=True)
class MatchTargets:
    """``P`` ordered frame pairs, ``A`` anchors each, of all clips of a batch that have geometry.

    Pairs are sorted by clip and target frame b.

    Attributes:
        layout: The batch's token map.
        padded: Whether some frame has fewer than N tokens.
        pairs_per_frame: How many pairs end in each frame of the batch; 0 where frames differ.
        clip, view_a, view_b: ``P`` long.
        cells_a, weights_a: ``P A 4``, bilinear address of the anchor among the tokens of frame a.
        cells_b, weights_b: ``P A 4``, bilinear address of the true match among the tokens of frame b.
        depth: ``P A``, depth of the match in b's camera, metres.
        valid: ``P A`` bool: the match is visible in b.
        token_depth: ``B V N``, depth at token centres, metres.
        token_depth_valid: ``B V N`` bool.
    """

    layout: TokenMap
    padded: bool
    pairs_per_frame: int
    clip: Tensor
    view_a: Tensor
    view_b: Tensor
    cells_a: Tensor
    weights_a: Tensor
    cells_b: Tensor
    weights_b: Tensor
    depth: Tensor
    valid: Tensor
    token_depth: Tensor
    token_depth_valid: Tensor

    @property
    def num_valid(self) -> int:
        return int(self.valid.sum())

    @cached_property
    def depth_scored(self) -> Tensor:
        """``P A`` bool: visible matches in frames where some token's depth is known."""
        return self.valid & self.token_depth_valid[self.clip, self.view_b].any(-1, keepdim=True)

    def token_rows(self, length: int) -> Tensor:
        """``B*V*N`` long, each token's row in a ``B*length`` table of sequence positions."""
        index = self.layout.index
        start = torch.arange(len(index), device=index.device) * length
        return (index + start.view(-1, 1, 1)).flatten()

    def parts(self, pairs_at_once: int, *, with_depth: bool) -> list[PairsPart]:
        """The pairs as :class:`PairsPart`, ``pairs_at_once`` in each (0: all in one)."""
        step = pairs_at_once or len(self.clip)
        values = depth_values(self.token_depth, self.token_depth_valid).flatten(0, 1)
        if not with_depth:
            values = values[..., :0]
        return [
            self._part(slice(start, start + step), values)
            for start in range(0, len(self.clip), step)
        ]

    def _part(self, chosen: slice, values: Tensor) -> PairsPart:
        clip, view_a = self.clip[chosen], self.view_a[chosen]
        _, num_views, num_tokens = self.layout.index.shape
        frame_b = clip * num_views + self.view_b[chosen]
        rows = self.cells_a[chosen] + ((clip * num_views + view_a) * num_tokens).view(-1, 1, 1)
        hidden = ~self.layout.valid.flatten(0, 1) if self.padded else None
        cells, weights = self.cells_b[chosen], self.weights_b[chosen]
        each_frame = self.pairs_per_frame
        if each_frame and len(clip) == len(self.clip):
            cells, weights = (x.reshape(len(values), -1, 4) for x in (cells, weights))
            frame_b_or_all = None
        else:
            frame_b_or_all, values = frame_b, values.index_select(0, frame_b)
            hidden = None if hidden is None else hidden.index_select(0, frame_b)
        return PairsPart(
            layout=self.layout,
            shape=(len(clip), self.valid.shape[1]),
            clip=clip,
            view_a=view_a,
            rows_a=rows.view(1, -1, 4),
            weights_a=self.weights_a[chosen].reshape(1, -1, 4),
            frame_b=frame_b_or_all,
            cells_b=cells,
            weights_b=weights,
            values=values,
            hidden=hidden,
        )


@dataclass(frozen=True)
class PairsPart:
    """Some of the pairs, laid out for :func:`~spatialprior.objectives.soft_match.soft_match`.

    ``F`` rows: one a pair, or one a frame with the anchors of all pairs that end there.

    Attributes:
        layout: The batch's token map.
        shape: Number of pairs P, and of anchors A of each.
        clip, view_a: ``P`` long.
        rows_a, weights_a: ``1 P*A 4``, bilinear address of the anchors in a table of all tokens (``B*V*N``).
        frame_b: ``F`` long, frame of each row (``B*V``); ``None`` when they are all frames in order.
        cells_b, weights_b: ``F P*A/F 4``, bilinear address of the true matches in their frame.
        values: ``F N M``, what the matching distribution averages.
        hidden: ``F N`` bool, cells without a token; ``None`` without such cells.
    """

    layout: TokenMap
    shape: tuple[int, int]
    clip: Tensor
    view_a: Tensor
    rows_a: Tensor
    weights_a: Tensor
    frame_b: Tensor | None
    cells_b: Tensor
    weights_b: Tensor
    values: Tensor
    hidden: Tensor | None


@torch.no_grad()
def match_targets(
    batch: ClipBatch, *, grids: list[int], pairs: str, max_anchors: int, tolerance: Tolerance
) -> MatchTargets | None:
    """Targets of a batch, or ``None`` when none of its clips carries geometry (others are passed over).

    Args:
        batch: Encoded clips.
        grids: Sides of the anchor grids, e.g. ``[8, 24]`` for the paper's coarse and fine ones.
        pairs: ``all`` ordered pairs of views, or ``anchor``: the first view against each other one.
        max_anchors: Keep at most this many visible anchors a pair, drawn afresh each step (0 keeps all). Only
            a few times as many are looked at: the cost grows with ``max_anchors``, not with the grids.
        tolerance: Occlusion test.
    """
    layout = batch.token_map.to("cpu")
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for b, source in enumerate(batch.clips):
        complete = source.has_geometry and source.depth_valid is not None
        if complete and len(layout.frames(b)) > 1:
            by_size[source.image_size].append(b)
    if not by_size:
        return None
    token_depth = torch.zeros(layout.valid.shape)
    token_depth_valid = torch.zeros_like(layout.valid)
    groups = []
    for members in by_size.values():
        groups.append(_group(batch, members, layout, grids, pairs, max_anchors, tolerance))
        _fill_token_depth(batch, members, layout, token_depth, token_depth_valid)
    clip, view_a, view_b, points_a, points_b, depth, valid = (
        torch.cat(list(column)) for column in zip(*groups, strict=True)
    )
    frame_b = clip * layout.index.shape[1] + view_b
    order = frame_b.argsort(stable=True)
    clip, view_a, view_b, points_a, points_b, depth, valid = (
        x[order] for x in (clip, view_a, view_b, points_a, points_b, depth, valid)
    )
    cells_a, weights_a = bilinear_cells(
        layout.to_patch_units(clip, view_a, points_a), layout.grid[clip, view_a]
    )
    cells_b, weights_b = bilinear_cells(
        layout.to_patch_units(clip, view_b, points_b), layout.grid[clip, view_b]
    )
    device = batch.labels.device
    tensors = [
        clip, view_a, view_b, cells_a, weights_a, cells_b, weights_b, depth, valid,
        token_depth, token_depth_valid & layout.valid,
    ]  # fmt: skip
    padded = not bool(layout.valid.all())
    ending = frame_b.bincount(minlength=layout.index.shape[0] * layout.index.shape[1])
    per_frame = int(ending[0]) if bool((ending == ending[0]).all()) else 0
    return MatchTargets(batch.token_map, padded, per_frame, *(t.to(device) for t in tensors))


def _group(
    batch: ClipBatch,
    members: list[int],
    layout: TokenMap,
    grids: list[int],
    pairs: str,
    max_anchors: int,
    tolerance: Tolerance,
) -> tuple[Tensor, ...]:
    """Matches of clips that share an image size, in one call: views are stacked, pairs are offset."""
    clips = [batch.clips[b] for b in members]
    depth, valid = _depth_maps(clips)
    intrinsics, world_to_cam = (
        torch.cat([getattr(clip, name) for clip in clips])
        for name in ("intrinsics", "world_to_cam")
    )
    owner, views, offset, rows = [], [], 0, []
    for b, clip in zip(members, clips, strict=True):
        frames = layout.frames(b)
        own = all_pairs(len(frames)) if pairs == "all" else anchor_pairs(len(frames))
        owner.append(torch.full((len(own),), b))
        views.append(own)
        rows.append(frames[own] + offset)  # geometry is stored by view of the clip
        offset += clip.num_views
    height, width = clips[0].image_size
    anchors = torch.cat([grid_points(side, side, height, width) for side in grids])
    if 0 < _LOOKED_AT * max_anchors < len(anchors):
        order = torch.randperm(len(anchors), generator=_generator(batch.step))
        anchors = anchors[order[: _LOOKED_AT * max_anchors]]
    found = match(
        anchors, torch.cat(rows), depth, valid, intrinsics, world_to_cam, tolerance=tolerance
    )
    clip_index, (view_a, view_b) = torch.cat(owner), torch.cat(views).unbind(1)
    visible = (
        found.visible
        & layout.covers(clip_index, view_a, found.points_a)
        & layout.covers(clip_index, view_b, found.points_b)
    )
    generators = [_generator(batch.step, batch.clips[b].clip_id) for b in members]
    pairs_each = [len(own) for own in views]
    keep = _draw(visible, max_anchors, generators, pairs_each)
    return (
        clip_index,
        view_a,
        view_b,
        *(
            t.gather(1, keep if t.ndim == 2 else keep.unsqueeze(-1).expand(-1, -1, 2))
            for t in (
                found.points_a.float(),
                found.points_b.float(),
                found.depth_b.float(),
                visible,
            )
        ),
    )


def _draw(
    visible: Tensor, count: int, generators: list[torch.Generator], rows_each: list[int]
) -> Tensor:
    """Columns to keep in every row: ``count`` random visible ones first, others only to fill up.

    Each generator draws for the next ``rows_each`` rows, those of one clip.
    """
    width = visible.shape[1]
    if count <= 0 or count >= width:
        return torch.arange(width).expand(visible.shape)
    draws = [
        torch.rand(rows, width, generator=generator)
        for rows, generator in zip(rows_each, generators, strict=True)
    ]
    return (torch.cat(draws) + visible.float()).topk(count, dim=1).indices


def _generator(step: int, clip_id: str = "") -> torch.Generator:
    """Random numbers of a clip in a step (without a clip, of the step), wherever it is computed."""
    # The CPU generator takes 32 bits of a seed and drops the rest.
    return torch.Generator().manual_seed(zlib.crc32(f"{step} {clip_id}".encode()))


def _fill_token_depth(
    batch: ClipBatch, members: list[int], layout: TokenMap, depth: Tensor, known: Tensor
) -> None:
    """Depth at the token centres of clips that share an image size, in one call."""
    clips = [batch.clips[b] for b in members]
    owner, view, rows, offset = [], [], [], 0
    for b, clip in zip(members, clips, strict=True):
        frames = layout.frames(b)
        owner.append(torch.full_like(frames, b))
        view.append(torch.arange(len(frames)))
        rows.append(frames + offset)
        offset += clip.num_views
    at = torch.cat(owner), torch.cat(view)
    maps, valid = _depth_maps(clips)
    depth[at], known[at], _ = sample_depth(maps, valid, layout.centers()[at], torch.cat(rows))


def _depth_maps(clips: list[MultiViewClip]) -> tuple[Tensor, Tensor | None]:
    """Depth of all views, and where it is valid: ``None`` for everywhere, which spares looking."""
    depth, valid = (
        torch.cat([getattr(clip, name) for clip in clips]) for name in ("depth", "depth_valid")
    )
    return depth.float(), None if bool(valid.all()) else valid
