"""All losses on the geometry of one clip, in the order that makes them independent of scale and world frame.

G²VLM-style, re-implementation (arXiv 2511.21688; g2vlm.md section 3). The truth is moved into the first
view's frame and divided by the mean distance of its points; the prediction is divided by the mean distance of
its own local points, then multiplied by the one scale that fits these to the truth. That scale serves every
term.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spatialprior.geometry.cameras import transform
from spatialprior.objectives.normals import normal_loss
from spatialprior.objectives.point_maps import (
    confidence_loss,
    gather_valid,
    in_first_view,
    mean_distance,
    point_map_loss,
    point_weights,
    scale_translations,
    sky_loss,
)
from spatialprior.objectives.relative_pose import relative_pose_losses
from spatialprior.objectives.scale import at_least_float32, optimal_scale
from spatialprior.objectives.scene_weights import Losses, SceneLossConfig, guard_spikes


def scene_losses(
    points_cam: Sequence[Tensor],
    cam_to_world: Tensor,
    true_points_cam: Sequence[Tensor],
    valid: Sequence[Tensor],
    true_cam_to_world: Tensor,
    config: SceneLossConfig,
    *,
    points_global: Sequence[Tensor] | None = None,
    confidence_logits: Sequence[Tensor] | None = None,
    sky: Sequence[Tensor] | None = None,
) -> Losses:
    """Losses of one clip of V views. A tensor ``V H W ...`` does for a sequence of ``H W ...``.

    Args:
        points_cam: Predicted points, ``H W 3`` a view (views may differ in size), each in its camera's frame;
            one unknown scale for the clip.
        cam_to_world: Predicted poses ``V 4 4``, rigid, into any world, of the same scale.
        true_points_cam: ``H W 3`` a view, metres; whatever (NaN too) where not valid.
        valid: ``H W`` bool a view.
        true_cam_to_world: ``V 4 4``, metres.
        config: Weights; a term of weight 0 is left out.
        points_global: Predicted points in the first view's frame, ``H W 3`` a view, of the same scale; adds
            ``global_points``.
        confidence_logits: ``H W`` a view; adds ``confidence``, and ``sky`` if that is given.
        sky: ``H W`` bool a view; pixels that are not valid and show sky count as never right. Without it they
            do not count.

    Returns:
        ``points``, ``global_points`` (3 items a valid pixel), ``normals`` (an item a 2×2 quad), ``rotation``
        and ``translation`` (an item an ordered pair of views), ``confidence`` (a valid pixel), ``sky`` (a sky
        pixel); sums are in float32 (float64 of float64 points) under autocast too. In a clip without any
        valid pixel all but ``sky`` are exactly zero and connected, and but for the quads their counts are 0.

    Raises:
        ValueError: Prediction and truth differ in views or pixels.
    """
    points, truth, masks = list(points_cam), list(true_points_cam), list(valid)
    _check_shapes(points, cam_to_world, truth, masks, true_cam_to_world)
    points = [at_least_float32(view) for view in points]
    kind = points[0].dtype
    truth = [view.to(kind) for view in truth]
    with torch.autocast(points[0].device.type, enabled=False):
        weight = gather_valid(map(point_weights, (view[..., 2] for view in truth), masks), masks)
        local, true_local = gather_valid(points, masks), gather_valid(truth, masks)
        unit, true_unit = mean_distance(local), mean_distance(true_local)
        local, true_local, weight = local / unit, true_local / true_unit, weight * true_unit
        scale = optimal_scale(local, true_local, weight, config.max_points)
        losses: Losses = {"points": point_map_loss(scale * local, true_local, weight)}

        poses = in_first_view(at_least_float32(true_cam_to_world)).to(kind)
        if points_global is not None:
            known = zip(truth, masks, poses, strict=True)
            true_global = torch.cat([transform(view[mask], pose) for view, mask, pose in known])
            moved = at_least_float32(gather_valid(points_global, masks)) / unit
            losses["global_points"] = point_map_loss(scale * moved, true_global / true_unit, weight)

        if config.normals:
            # Normals do not depend on the unit: a constant here, lest invalid pixels get into its gradient.
            parts = [
                normal_loss(view / unit.detach(), true_view, mask)
                for view, true_view, mask in zip(points, truth, masks, strict=True)
            ]
            quads = sum(count for _, count in parts)
            losses["normals"] = torch.stack([part for part, _ in parts]).sum(), quads

        # Without a valid pixel there is no unit, hence no pair to compare.
        used = len(poses) if len(local) else 0
        rotation, translation, pairs = relative_pose_losses(
            scale_translations(at_least_float32(cam_to_world)[:used], scale / unit),
            scale_translations(poses[:used], 1 / true_unit),
        )
        losses |= {"rotation": (rotation, pairs), "translation": (translation, pairs)}

        if confidence_logits is not None:
            logits = gather_valid(confidence_logits, masks)
            losses["confidence"] = confidence_loss(
                logits, scale * local, true_local, weight, config.confidence_error
            )
            if sky is not None:
                never = [above & ~mask for above, mask in zip(sky, masks, strict=True)]
                losses["sky"] = sky_loss(gather_valid(confidence_logits, never))
    weights = config.weights()
    losses = {name: loss for name, loss in losses.items() if name in weights}
    return guard_spikes(losses, weights, config.spike) if config.spike and losses else losses


def scene_counts(
    valid: Sequence[Tensor],
    config: SceneLossConfig,
    *,
    points_global: bool = False,
    confidence: bool = False,
    sky: Sequence[Tensor] | None = None,
) -> dict[str, float]:
    """Counts that :func:`scene_losses` will return, from the truth alone (before the model has run).

    Args:
        valid, config, sky: As there.
        points_global, confidence: Whether the model predicts these.
    """
    pixels = sum(int(mask.sum()) for mask in valid)
    pairs = len(valid) * (len(valid) - 1) if pixels else 0
    counts = {
        "points": 3 * pixels,
        "normals": sum((mask.shape[0] - 1) * (mask.shape[1] - 1) for mask in valid),
        "rotation": pairs,
        "translation": pairs,
    }
    if points_global:
        counts["global_points"] = 3 * pixels
    if confidence:
        counts["confidence"] = pixels
        if sky is not None:
            counts["sky"] = sum(int((a & ~m).sum()) for a, m in zip(sky, valid, strict=True))
    return {name: float(count) for name, count in counts.items() if name in config.weights()}


def _check_shapes(
    points: list[Tensor],
    poses: Tensor,
    truth: list[Tensor],
    masks: list[Tensor],
    true_poses: Tensor,
) -> None:
    sizes = [[tuple(view.shape[:2]) for view in maps] for maps in (points, truth, masks)]
    if not points or sizes[0] != sizes[1] or sizes[0] != sizes[2]:
        raise ValueError(
            "point maps, true points and masks must cover the same pixels, at least one view; "
            f"got sizes {sizes[0]}, {sizes[1]} and {sizes[2]}: resize the truth to the prediction"
        )
    wanted = (len(points), 4, 4)
    if poses.shape != wanted or true_poses.shape != wanted:
        raise ValueError(
            f"{wanted[0]} views need poses of shape {wanted}, "
            f"got {tuple(poses.shape)} and {tuple(true_poses.shape)}"
        )
