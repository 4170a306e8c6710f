"""Camera poses compared pair by pair, so that no view is the reference.

Source: G²VLM (arXiv 2511.21688) after π³; g2vlm.md section 3, "L_cam". ``T_ij = T_i^-1 T_j`` over ordered
pairs ``i != j`` of one clip, T being camera to world: no choice of the world's frame changes it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spatialprior.geometry.cameras import invert
from spatialprior.objectives.scale import at_least_float32

CLIP = 1e-6
"""How far cosines keep from ±1, where the gradient of acos is infinite."""
HUBER_DELTA = 0.1
"""In units of the mean distance of the true points."""


def relative_poses(cam_to_world: Tensor) -> Tensor:
    """``T_i^-1 T_j`` for the ordered pairs ``i != j``: ``V 4 4`` to ``P 4 4``, ``P = V (V - 1)``."""
    pairs = invert(cam_to_world).unsqueeze(1) @ cam_to_world.unsqueeze(0)
    apart = ~torch.eye(len(cam_to_world), dtype=torch.bool, device=cam_to_world.device)
    return pairs[apart]


def rotation_angle(a: Tensor, b: Tensor) -> Tensor:
    """Geodesic distance in radians of rotations ``... 3 3``: ``acos((tr(a^T b) - 1) / 2)``.

    The cosine is clipped by 1e-6, beyond which there is no gradient. Near the identity (below 0.0014 rad) the
    value is zero, not the constant that clipping leaves, so that the loss of the truth is zero.
    """
    cosine = ((a * b).sum((-2, -1)) - 1) / 2
    angle = cosine.clamp(CLIP - 1, 1 - CLIP).acos()
    return angle.masked_fill(cosine >= 1 - CLIP, 0.0)


def relative_pose_losses(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, float]:
    """Rotation and translation losses of one clip.

    Args:
        predicted: ``V 4 4`` camera-to-world poses, rigid, translations already brought to the truth's scale.
        truth: ``V 4 4``, translations in units of the mean distance of the true points.

    Returns:
        Summed rotation angles (radians), summed Huber losses of the translations (each the mean over x, y and
        z), and the number of ordered pairs. A single view has none: zero, still connected to ``predicted``.
    """
    predicted, truth = at_least_float32(predicted), at_least_float32(truth)
    with torch.autocast(predicted.device.type, enabled=False):
        found = relative_poses(predicted)
        wanted = relative_poses(truth).to(found.dtype)
    rotation = rotation_angle(found[:, :3, :3], wanted[:, :3, :3]).sum()
    offsets = F.huber_loss(found[:, :3, 3], wanted[:, :3, 3], delta=HUBER_DELTA, reduction="none")
    return rotation, offsets.mean(-1).sum(), float(len(found))
