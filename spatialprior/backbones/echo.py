"""Every view a second time, behind the views themselves: room in the sequence for a prior's own tokens.

A stock model reads as many visual tokens as its images have. A prior that adds tokens instead of changing those
there are (VEGA-3D's sequence concatenation) therefore gets a copy of each view to write over. The vision tower
sees the copies too, which is the price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spatialprior.backbones.conversation import is_interleaved
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.token_map import TokenMap


def with_echo(clip: MultiViewClip) -> MultiViewClip:
    """The clip with all of its views twice, for a processor; without geometry.

    Raises:
        ValueError: The questions say where the views stand, so that a copy has no place.
    """
    if is_interleaved(clip):
        raise ValueError(
            f"clip {clip.clip_id} says in its questions where its views stand, which leaves no place for a "
            "second copy of them; use another fusion than sequence_concat"
        )
    images = clip.images
    twice = torch.cat([images, images]) if isinstance(images, Tensor) else (*images, *images)
    bare = MultiViewClip(clip.clip_id, clip.source_id, twice, clip.frame_ids * 2)
    return replace(bare, questions=clip.questions, dialogue=clip.dialogue)


def split_echo(layout: TokenMap, clips: Sequence[MultiViewClip]) -> tuple[TokenMap, TokenMap]:
    """The maps of the views and of their copies, from the map of clips that went through :func:`with_echo`.

    Raises:
        ValueError: A view has no grid of its own to copy, as in a video that merges frames.
    """
    views = torch.tensor([clip.num_views for clip in clips])
    if not torch.equal((layout.grid.prod(-1) > 0).sum(1), 2 * views):
        raise ValueError(
            "sequence_concat needs every view to have tokens of its own; set backbone.frames=images"
        )
    most = int(views.max()) if len(views) else 0
    order = torch.arange(most)
    absent = order >= views.unsqueeze(1)  # B V: clips with fewer views than others
    # Where a clip has no such view any row will do: it is blanked.
    copies = (views.unsqueeze(1) + order).masked_fill(absent, 0)
    row = torch.arange(len(clips)).unsqueeze(1)

    def pick(which: Tensor) -> TokenMap:
        blank = absent.unsqueeze(-1)
        return TokenMap(
            index=layout.index[row, which].masked_fill(blank, 0),
            valid=layout.valid[row, which] & ~blank,
            grid=layout.grid[row, which].masked_fill(blank, 0),
            frame=order.expand(len(clips), -1).masked_fill(absent, 0),
            box=layout.box[row, which].masked_fill(blank, 0.0),
        )

    return pick(order.expand(len(clips), -1)), pick(copies)
