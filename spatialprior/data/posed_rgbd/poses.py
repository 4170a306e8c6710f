"""Poses as files give them: parsed, checked, mended."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spatialprior.geometry.cameras import invert, nearest_rotation

_WORST_ROTATION = (
    0.1  # Frobenius distance to a rotation beyond which a pose is wrong rather than rounded
)


class BadPoseError(ValueError):
    """A pose that is no rigid transform; the message says why."""


def world_to_cam(cam_to_world: np.ndarray) -> Tensor:
    """Check, mend and invert a camera-to-world pose.

    Args:
        cam_to_world: ``4 4``; its rotation may be off by rounding.

    Returns:
        ``4 4`` float64 with an exact rotation.

    Raises:
        BadPoseError: Not 4x4, not finite, or too far from a rigid transform to be mended.
    """
    pose = torch.as_tensor(np.asarray(cam_to_world, dtype=np.float64)).clone()
    if pose.shape != (4, 4):
        raise BadPoseError(f"pose has {pose.numel()} numbers, expected 16")
    if not bool(pose.isfinite().all()):
        raise BadPoseError("pose holds NaN or infinite numbers (lost tracking)")
    rotation = nearest_rotation(pose[:3, :3])
    off = float((rotation - pose[:3, :3]).norm())
    if off > _WORST_ROTATION:
        raise BadPoseError(f"pose is no rigid transform (distance to a rotation {off:.2g})")
    pose[:3, :3] = rotation
    pose[3] = pose.new_tensor([0, 0, 0, 1])
    return invert(pose)


def from_quaternion(translation: np.ndarray, xyzw: np.ndarray) -> np.ndarray:
    """Camera-to-world ``4 4`` from a position and a quaternion ``(x, y, z, w)``, normalised here.

    Raises:
        BadPoseError: The quaternion has no direction.
    """
    norm = float(np.linalg.norm(xyzw))
    if not norm > 1e-6:  # also catches NaN
        raise BadPoseError("quaternion is zero or NaN")
    x, y, z, w = np.asarray(xyzw, dtype=np.float64) / norm
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = translation
    return pose


def parse_numbers(text: str, what: str) -> np.ndarray:
    """Whitespace- or comma-separated floats.

    Raises:
        BadPoseError: Something else is in there.
    """
    try:
        return np.array([float(word) for word in text.replace(",", " ").split()], dtype=np.float64)
    except ValueError as error:
        raise BadPoseError(f"{what}: {error}") from None
