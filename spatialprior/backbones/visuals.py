"""What a processor makes of the views of a batch, and which of its tokens lie in which grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spatialprior.core.token_map import TokenMap


@dataclass(frozen=True)
class ViewGrid:
    """A grid of visual tokens.

    Attributes:
        frame: View of the clip that it stands for.
        start: Its first token among the visual tokens of its image or video.
        rows, cols: Its size.
        box: Clip pixels ``(x0, y0, x1, y1)`` under the grid.
    """

    frame: int
    start: int
    rows: int
    cols: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Visual:
    """One image or video in a conversation.

    Attributes:
        tokens: Token ids that take the place of its placeholder.
        grids: The token views in it.
    """

    tokens: list[int]
    grids: tuple[ViewGrid, ...]


@dataclass(frozen=True)
class Visuals:
    """All images and videos of a batch.

    Attributes:
        inputs: Keyword arguments of the model's ``forward`` that hold the pixels.
        of_clip: For each clip, its images and videos in the order of the conversation.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    of_clip: list[list[Visual]] = field(default_factory=list)


def full_box(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The whole of a view of ``(height, width)``."""
    return 0.0, 0.0, float(size[1]), float(size[0])


def token_map(visual: Tensor, of_clip: Sequence[Sequence[Visual]], ids: Sequence[int]) -> TokenMap:
    """Where the grids of a batch lie.

    Args:
        visual: ``B S`` bool, the visual tokens of the (padded) sequences.
        of_clip: The batch's images and videos.
        ids: Token ids that are visual tokens.
    """
    placed: list[list[tuple[ViewGrid, Tensor]]] = []
    for row, visuals in zip(visual, of_clip, strict=True):
        positions, cursor, views = row.nonzero().squeeze(1), 0, []
        for item in visuals:
            for grid in item.grids:
                start = cursor + grid.start
                views.append((grid, positions[start : start + grid.rows * grid.cols]))
            cursor += sum(token in ids for token in item.tokens)
        assert cursor == len(positions), "visual tokens in the text do not match the processor's"
        placed.append(views)
    num_views = max((len(views) for views in placed), default=0)
    num_tokens = max((len(at) for views in placed for _, at in views), default=0)
    index = torch.zeros(len(placed), num_views, num_tokens, dtype=torch.long)
    valid = torch.zeros(len(placed), num_views, num_tokens, dtype=torch.bool)
    size = torch.zeros(len(placed), num_views, 2, dtype=torch.long)
    frame = torch.zeros(len(placed), num_views, dtype=torch.long)
    box = torch.zeros(len(placed), num_views, 4)
    for b, views in enumerate(placed):
        for v, (grid, at) in enumerate(views):
            index[b, v, : len(at)] = at
            valid[b, v, : len(at)] = True
            size[b, v] = torch.tensor([grid.rows, grid.cols])
            frame[b, v] = grid.frame
            box[b, v] = torch.tensor(grid.box)
    return TokenMap(index=index, valid=valid, grid=size, frame=frame, box=box)
