"""Correspondence score of encoders over posed RGB-D clips, with what raw pixels and random weights reach.

Source: VEGA-3D's multi-view correspondence score (fact sheet, section 6). The published number is the raw
cosine, which a component shared by all features inflates; the difference to mismatched voxels and the retrieval
accuracy stand beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from spatialprior.core.clip import MultiViewClip
from spatialprior.core.intervals import Interval, clustered_interval, paired_interval
from spatialprior.diagnostics.correspondence.cells import cell_colours, cell_points
from spatialprior.diagnostics.correspondence.config import CorrespondenceConfig
from spatialprior.diagnostics.correspondence.voxels import PairSums, compare_all, view_voxels
from spatialprior.features.encoder import FeatureEncoder
from spatialprior.features.maps import FeatureMaps

METRICS = ("cosine", "mismatched", "difference", "retrieval", "chance")
PAIRS = ("all", "adjacent")
Sums = dict[str, PairSums]
"""``all`` and ``adjacent`` of one clip."""


def score_clip(
    maps: FeatureMaps, clip: MultiViewClip, config: CorrespondenceConfig
) -> tuple[Sums, Sums]:
    """Sums of one clip for the maps, and for the mean colours of the same cells.

    Raises:
        ValueError: The clip has no depth, intrinsics or poses, or fewer than two views.
    """
    images = _check(clip)
    if config.grid is not None:
        rows, cols = (min(pair) for pair in zip(config.grid, maps.grid, strict=True))
        maps = maps.pooled(rows, cols)
    assert clip.depth is not None and clip.intrinsics is not None and clip.world_to_cam is not None
    boxes = maps.cell_boxes()
    points, valid = cell_points(
        boxes, clip.depth, clip.depth_valid, clip.intrinsics, clip.world_to_cam,
        config.min_depth_share,
    )  # fmt: skip
    order = sorted(range(clip.num_views), key=lambda view: clip.frame_ids[view])

    def sums(features: Tensor) -> Sums:
        views = view_voxels(features, points, valid, config.voxel, config.centre)
        return dict(zip(PAIRS, compare_all(views, order), strict=True))

    return sums(maps.values.flatten(2).transpose(1, 2)), sums(cell_colours(boxes, images))


def _check(clip: MultiViewClip) -> Tensor:
    if not clip.has_geometry or not isinstance(clip.images, torch.Tensor) or clip.num_views < 2:
        raise ValueError(
            f"clip {clip.clip_id}: the correspondence score needs two views or more of one size, with depth, "
            "intrinsics and poses"
        )
    return clip.images


def score_encoder(
    name: str,
    encoder: FeatureEncoder,
    clips: Sequence[MultiViewClip],
    config: CorrespondenceConfig,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Scores of one encoder and of its baselines (see :func:`score_encoders`).

    Raises:
        ValueError: As :func:`score_clip`; or no clip has a pair of views that share two voxels.
    """
    arms: dict[str, list[Sums]] = {"encoder": [], "pixels": []}
    random: FeatureEncoder | None = None
    if config.random_weights and encoder.config.weights != "random":
        random = type(encoder)(dataclasses.replace(encoder.config, weights="random"))
        random.to(encoder.device)
        arms["random"] = []
    for clip in tqdm(clips, desc=name, unit="clip", disable=not progress):
        images = _check(clip)
        own, pixels = score_clip(encoder(images), clip, config)
        arms["encoder"].append(own)
        arms["pixels"].append(pixels)
        if random is not None:
            arms["random"].append(score_clip(random(images), clip, config)[0])
    found: dict[str, Any] = {}
    for pairs in PAIRS:
        found[pairs] = _summary({arm: [s[pairs] for s in sums] for arm, sums in arms.items()},
                                clips, config, f"{name}: {pairs} pairs of views")  # fmt: skip
    return found


def score_encoders(
    encoders: Mapping[str, FeatureEncoder],
    clips: Sequence[MultiViewClip],
    config: CorrespondenceConfig,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """How well features of the same place agree across views.

    Args:
        encoders: Name -> encoder, on the device it shall run on.
        clips: With depth, intrinsics and poses; may load lazily, each is read once an encoder.
        config: Settings, repeated in the result.
        progress: Whether to show bars.

    Returns:
        JSON: ``settings``, ``clips`` (their number), and ``encoders``: name -> ``all`` and ``adjacent`` pairs
        of views -> ``encoder``, ``pixels`` and ``random`` (unless left out) -> each of :data:`METRICS` with
        ``mean``, ``ci95`` and ``sources`` (over clips, clustered by source), and the counts ``clips``,
        ``clips_without``, ``voxels``, ``pairs``, ``skipped``; and ``vs_pixels``, ``vs_random``: paired
        differences of ``difference`` and ``retrieval``.

    Raises:
        ValueError: As :func:`score_encoder`.
    """
    scores = {
        name: score_encoder(name, encoder, clips, config, progress=progress)
        for name, encoder in encoders.items()
    }
    return {"settings": dataclasses.asdict(config), "clips": len(clips), "encoders": scores}


def _summary(
    arms: Mapping[str, Sequence[PairSums]],
    clips: Sequence[MultiViewClip],
    config: CorrespondenceConfig,
    what: str,
) -> dict[str, Any]:
    # The cells, and so the voxels, are the same in every arm: a clip counts in all or in none.
    used = [i for i, sums in enumerate(arms["encoder"]) if sums.voxels]
    if not used:
        raise ValueError(
            f"{what}: none of {len(clips)} clips has two views that share two voxels of {config.voxel} m; take "
            "clips whose views overlap, or a larger voxel"
        )
    sources = [clips[i].source_id for i in used]
    values: dict[str, dict[str, list[float]]] = {}
    found: dict[str, Any] = {}
    for arm, sums in arms.items():
        total = sum(sums, PairSums())
        rows = [row for i in used if (row := sums[i].values()) is not None]
        values[arm] = {metric: [row[metric] for row in rows] for metric in METRICS}
        found[arm] = {
            **{
                metric: _json(clustered_interval(values[arm][metric], sources, seed=config.seed))
                for metric in METRICS
            },
            "clips": len(used),
            "clips_without": len(clips) - len(used),
            "voxels": total.voxels,
            "pairs": total.pairs,
            "skipped": total.skipped,
        }
    for arm in arms:
        if arm != "encoder":
            found[f"vs_{arm}"] = {
                metric: _json(
                    paired_interval(
                        values["encoder"][metric], values[arm][metric], sources, seed=config.seed
                    )
                )
                for metric in ("difference", "retrieval")
            }
    return found


def _json(interval: Interval) -> dict[str, Any]:
    return {
        "mean": interval.mean,
        "ci95": interval.bounds,
        "sources": interval.num_clusters,
    }
