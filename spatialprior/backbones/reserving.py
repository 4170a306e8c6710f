"""Room in an encoder's rows for the tokens that a prior has reserved: a block in front of the first view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spatialprior.core.clip import MultiViewClip
from spatialprior.core.reserve import Reserve, ReservedTokens
from spatialprior.core.token_map import TokenMap

Markers = tuple[list[int], list[int]]


def without_views(clip: MultiViewClip) -> MultiViewClip:
    """The clip's questions alone: what is left beside reserved tokens that stand for its views."""
    bare = MultiViewClip(clip.clip_id, clip.source_id, (), ())
    return replace(bare, questions=clip.questions, dialogue=clip.dialogue)


def block(
    clip: MultiViewClip, reserve: Reserve, markers: Markers, pad: int
) -> tuple[list[int], list[int]]:
    """Token ids of a clip's block, and the view of each."""
    ids: list[int] = []
    views: list[int] = []
    for view, size in enumerate(clip.image_sizes):
        rows, cols = reserve.grid(size)
        own = [*markers[0], *[pad] * (rows * cols), *markers[1]]
        ids += own
        views += [view] * len(own)
    return ids, views


def reserved_tokens(
    clips: Sequence[MultiViewClip],
    reserve: Reserve,
    markers: Markers,
    view: Tensor,
    patches: Tensor,
) -> ReservedTokens:
    """Where a batch's reserved tokens sit.

    Args:
        clips: The batch.
        reserve: What was asked for.
        markers: Of a view.
        view, patches: ``B S``, see :class:`ReservedTokens`.
    """
    grids = [[reserve.grid(size) for size in clip.image_sizes] for clip in clips]
    num_views = max((len(own) for own in grids), default=0)
    num_tokens = max((rows * cols for own in grids for rows, cols in own), default=0)
    shape = len(clips), num_views
    index = torch.zeros(*shape, num_tokens, dtype=torch.long)
    valid = torch.zeros(*shape, num_tokens, dtype=torch.bool)
    grid = torch.zeros(*shape, 2, dtype=torch.long)
    frame = torch.zeros(*shape, dtype=torch.long)
    box = torch.zeros(*shape, 4)
    for b, clip in enumerate(clips):
        for v, size in enumerate(clip.image_sizes):
            at = ((view[b] == v) & patches[b]).nonzero().squeeze(1)
            index[b, v, : len(at)], valid[b, v, : len(at)] = at, True
            grid[b, v], frame[b, v] = torch.tensor(grids[b][v]), v
            box[b, v] = torch.tensor(reserve.box(size))
    return ReservedTokens(
        TokenMap(index, valid, grid, frame, box),
        patches,
        view,
        (len(markers[0]), len(markers[1])),
        reserve.attention,
        reserve.positions,
    )
