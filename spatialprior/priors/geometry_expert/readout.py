"""What the heads make of the geometry tokens of a batch: views of one grid go through them together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from spatialprior.core.reserve import ReservedTokens
from spatialprior.geometry.scene import ScenePrediction
from spatialprior.priors.geometry_expert.heads.geometry_heads import GeometryHeads

Grid = tuple[int, int]


@dataclass(frozen=True)
class Readout:
    """Of one clip of V views.

    Attributes:
        points_cam: ``H W 3`` a view.
        cam_to_world: ``V 4 4``.
        points_global: ``H W 3`` a view, in the first view's frame; ``None`` without that head, or outside
            training.
        confidence_logits: ``H W`` a view; ``None`` without that head.
    """

    points_cam: list[Tensor]
    cam_to_world: Tensor
    points_global: list[Tensor] | None
    confidence_logits: list[Tensor] | None

    def prediction(self) -> ScenePrediction:
        logits = self.confidence_logits
        sure = None if logits is None else tuple(one.sigmoid() for one in logits)
        return ScenePrediction(tuple(self.points_cam), self.cam_to_world, sure)


def view_grids(reserved: ReservedTokens, clip: int) -> list[Grid]:
    """``(rows, cols)`` of every view of a clip."""
    return [(rows, cols) for rows, cols in reserved.token_map.grid[clip].tolist() if rows]


def read_out(
    heads: GeometryHeads,
    hidden: Tensor,
    reserved: ReservedTokens,
    clips: list[int],
    *,
    with_global: bool,
) -> dict[int, Readout]:
    """Every head on the views of some clips.

    Args:
        heads: The heads.
        hidden: ``B S D``, after the final norm; D is the expert's width.
        reserved: Where the geometry tokens are.
        clips: Of the batch, those to read; each has a view.
        with_global: Whether points in the first view's frame are wanted. That head looks at a first view of the
            same grid, so a clip whose views differ in their grids has none.
    """
    index, grids = reserved.token_map.index, {b: view_grids(reserved, b) for b in clips}
    groups: dict[Grid, list[tuple[int, int]]] = defaultdict(list)
    for b in clips:
        for v, grid in enumerate(grids[b]):
            groups[grid].append((b, v))
    out: dict[str, dict[tuple[int, int], Tensor]] = defaultdict(dict)
    for grid, views in groups.items():
        size = grid[0] * grid[1]
        tokens = torch.stack([hidden[b, index[b, v, :size]] for b, v in views])
        found = {"points": heads.points(tokens, grid), "pose": heads.camera(tokens, grid)}
        if heads.confidence is not None:
            # It learns how far the others are off, and must not change them (upstream freezes the rest).
            found["confidence"] = heads.confidence(tokens.detach(), grid)
        for name, values in found.items():
            out[name] |= dict(zip(views, values, strict=True))
        alike = [place for place, (b, _) in enumerate(views) if set(grids[b]) == {grid}]
        if heads.global_points is not None and with_global and alike:
            first = torch.stack([hidden[views[p][0], index[views[p][0], 0, :size]] for p in alike])
            values = heads.global_points(tokens[alike], first, grid)
            out["global"] |= {views[p]: value for p, value in zip(alike, values, strict=True)}

    def of(name: str, b: int) -> list[Tensor] | None:
        keys = [(b, v) for v in range(len(grids[b]))]
        return [out[name][key] for key in keys] if keys[0] in out[name] else None

    return {
        b: Readout(
            of("points", b) or [],
            torch.stack(of("pose", b) or []),
            of("global", b),
            of("confidence", b),
        )
        for b in clips
    }
