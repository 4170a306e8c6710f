"""Cells gathered into voxels of the scene, and pairs of views compared over the voxels that both see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_TIE = 1e-5
"""Cosines closer than this are equal: rounding must not decide a nearest neighbour."""


@dataclass(frozen=True)
class ViewVoxels:
    """What one view shows: ``ids`` ``K`` long, ascending, and ``features`` ``K C``, unit length."""

    ids: Tensor
    features: Tensor


@dataclass(frozen=True)
class PairSums:
    """Sums over the shared voxels of some pairs of views.

    Attributes:
        cosine: Of the same voxel's two features. A component that all features share adds to it.
        mismatched: Of a voxel's feature with those of the other shared voxels in the other view, their mean.
        retrieval: Nearest neighbour among *all* voxels of the other view is the right one; mean of both
            directions. Of n equal best ones, each counts 1/n.
        chance: 1 / number of candidates, mean of both directions.
        voxels: Shared voxels, counted in each pair.
        pairs, skipped: Pairs used, and pairs that share fewer than two voxels.
    """

    cosine: float = 0.0
    mismatched: float = 0.0
    retrieval: float = 0.0
    chance: float = 0.0
    voxels: int = 0
    pairs: int = 0
    skipped: int = 0

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(*(getattr(self, n) + getattr(other, n) for n in PairSums.__annotations__))

    def values(self) -> dict[str, float] | None:
        """Means over all shared voxels, ``None`` where there are none."""
        if not self.voxels:
            return None
        means = {
            name: getattr(self, name) / self.voxels
            for name in ("cosine", "mismatched", "retrieval", "chance")
        }
        return {**means, "difference": means["cosine"] - means["mismatched"]}


def view_voxels(
    features: Tensor, points: Tensor, valid: Tensor, voxel: float, centre: bool
) -> list[ViewVoxels]:
    """Voxels of every view of a clip, with ids that the views share.

    Args:
        features: ``V N C``.
        points: ``V N 3`` metres.
        valid: ``V N`` bool; other cells are left out.
        voxel: Side, metres.
        centre: Subtract the mean of all valid cells first.
    """
    cells = (points / voxel).floor().long()
    _, inverse = torch.unique(cells[valid], dim=0, return_inverse=True)
    ids = torch.full_like(valid, -1, dtype=torch.long)
    ids[valid] = inverse
    values = features.float()
    valid = valid.to(values.device)
    if centre and valid.any():
        values = values - values[valid].mean(0)
    values = F.normalize(values, dim=-1)
    found = []
    for view in range(len(values)):
        own, member = torch.unique(ids[view][ids[view] >= 0], return_inverse=True)
        kept = values[view][valid[view]]
        sums = kept.new_zeros(len(own), kept.shape[-1])
        sums.index_add_(0, member.to(kept.device), kept)
        # The direction of the sum is that of the mean.
        found.append(ViewVoxels(own.to(kept.device), F.normalize(sums, dim=-1)))
    return found


def compare(a: ViewVoxels, b: ViewVoxels) -> PairSums:
    """One pair of views. Fewer than two shared voxels leave nothing to tell apart: skipped."""
    in_a = torch.isin(a.ids, b.ids).nonzero()[:, 0]
    in_b = torch.isin(b.ids, a.ids).nonzero()[:, 0]  # ids ascend: the same order
    count = len(in_a)
    if count < 2:
        return PairSums(skipped=1)
    cosine = a.features @ b.features.T
    shared = cosine[in_a][:, in_b]
    matched = shared.diagonal()
    # Every mismatched pair of shared voxels once: what random draws of them estimate.
    mismatched = (shared.sum() - matched.sum()) / (count - 1)
    order = torch.arange(count, device=cosine.device)
    there, back = cosine[in_a], cosine[:, in_b].T
    hits = (_hits(there)[order, in_b] + _hits(back)[order, in_a]) / 2
    chance = count * (1 / len(b.ids) + 1 / len(a.ids)) / 2
    return PairSums(
        float(matched.sum()), float(mismatched), float(hits.sum()), chance, count, pairs=1
    )


def _hits(cosine: Tensor) -> Tensor:
    """``M K`` weights of being the nearest: 1 for the best of each row, shared among equals."""
    best = cosine >= cosine.amax(1, keepdim=True) - _TIE
    return best / best.sum(1, keepdim=True)


def compare_all(views: Sequence[ViewVoxels], order: Sequence[int]) -> tuple[PairSums, PairSums]:
    """Sums over all pairs of views, and over pairs of neighbours in ``order`` alone."""
    everything, adjacent = PairSums(), PairSums()
    for i in range(len(order)):
        for j in range(i + 1, len(order)):
            sums = compare(views[order[i]], views[order[j]])
            everything += sums
            if j == i + 1:
                adjacent += sums
    return everything, adjacent
