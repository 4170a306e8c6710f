"""Camera paths: bounded loops with large motion between frames.

Every path is a closed loop of a phase angle: the camera's place and gaze swing around a home pose while
the phase advances by ``stride`` ninths of a turn a frame, stride in {1, 2, 4}. Over the three strides the
phase gaps at frame distances 1, 2, 4, 5, 7 and 8 are the *same set*, because multiplying {1, 2, 4} by any
of them permutes it modulo 9 up to sign; at distances 3 and 6 the gap is always a third of a turn. So long
distances are on average as hard as short ones, "the same place" is a poor guess at all of them, and the
views never run away from each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spatialprior.data.rooms.raycast import cast_distance, pixel_rays
from spatialprior.data.rooms.scene import Room
from spatialprior.data.rooms.solids import Array

PATH_KINDS: tuple[str, ...] = ("pan", "orbit", "dolly", "strafe", "arc")

_PATH_STREAM = 0x0B
_STRIDES = (1, 2, 4)
_TURN = 9
_CLEARANCE = 0.30


@dataclass(frozen=True)
class CameraPath:
    """Cameras of one sequence.

    Attributes:
        kind: One of :data:`PATH_KINDS`.
        intrinsics: ``3 3`` pixels.
        world_to_cam: ``T 4 4`` float64.
    """

    kind: str
    intrinsics: Array
    world_to_cam: Array


def pinhole(fov_degrees: float, height: int, width: int) -> Array:
    """Intrinsics of a square-pixel camera with this horizontal field of view, centred."""
    focal = width / (2 * math.tan(math.radians(fov_degrees) / 2))
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def world_to_camera(position: Array, yaw: float, pitch: float, roll: float = 0.0) -> Array:
    """Rigid ``4 4`` of a camera that looks along ``yaw`` (0 is +x, pi/2 is +y) and ``pitch`` (up)."""
    forward = np.array(
        [math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)]
    )
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, right)
    cos, sin = math.cos(roll), math.sin(roll)
    rotation = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
    return pose


def make_path(room: Room, num_frames: int, height: int, width: int) -> CameraPath:
    """The path of this room: deterministic, inside the room, clear of furniture, with something in view."""
    rng = np.random.Generator(np.random.Philox(key=[room.seed, _PATH_STREAM]))
    kind = PATH_KINDS[int(rng.integers(len(PATH_KINDS)))]
    intrinsics = pinhole(float(rng.uniform(70, 75)), height, width)
    coarse = pinhole(80, 8, 8)
    for attempt in range(400):
        # Crowded rooms: swing less far the longer no clear path is found.
        reach = 1.0 if attempt < 100 else 1.0 - (attempt - 99) / 301
        poses, positions = _swing(kind, room, rng, num_frames, reach)
        if room.is_free(positions, _CLEARANCE) and _sees_far(room, coarse, poses):
            return CameraPath(kind, intrinsics, poses)
    return CameraPath("pan", intrinsics, _lookout(room, rng, num_frames))


def _swing(
    kind: str, room: Room, rng: np.random.Generator, num_frames: int, reach: float
) -> tuple[Array, Array]:
    """Poses ``T 4 4`` and positions ``T 3`` of one candidate loop around a random home pose."""
    stride = _STRIDES[int(rng.integers(len(_STRIDES)))] * (1 if rng.random() < 0.5 else -1)
    phase = rng.uniform(0, 2 * math.pi) + 2 * math.pi * stride / _TURN * np.arange(num_frames)
    sin, cos = np.sin(phase), np.cos(phase)
    subject = np.array(
        [rng.uniform(-0.25, 0.25) * room.half_x, rng.uniform(-0.25, 0.25) * room.half_y, 0.75]
    )
    bearing = rng.uniform(0, 2 * math.pi)
    away = np.array([math.cos(bearing), math.sin(bearing), 0.0])
    side = np.array([-away[1], away[0], 0.0])
    distance = rng.uniform(0.62, 0.85) * min(room.half_x, room.half_y) + rng.uniform(0.0, 0.3)
    eye_height = rng.uniform(1.2, 1.7)
    yaw_swing, pitch_swing = rng.uniform(0.34, 0.46), rng.uniform(0.20, 0.28)
    shifts = {  # (along the view axis, sideways, height) metres, (yaw, pitch) in units of the swing
        "pan": (0.0 * sin, 0.0 * sin, 0.0 * cos, sin, cos),
        "orbit": (0.0 * sin, 0.0 * sin, 0.10 * cos, 0.75 * sin, 0.8 * cos),
        "dolly": (0.55 * cos, 0.0 * sin, 0.08 * sin, sin, 0.8 * cos),
        "strafe": (0.0 * sin, 0.75 * sin, 0.15 * cos, 0.45 * sin, 0.9 * cos),
        "arc": (0.40 * cos, 0.40 * sin, 0.06 * cos, -0.9 * sin, 0.9 * cos),
    }[kind]
    along, across, up, yaws, pitches = (
        reach * shift if i < 3 else shift for i, shift in enumerate(shifts)
    )
    jitter = rng.normal(scale=0.03, size=(3, num_frames))
    positions = subject + (distance + along)[:, None] * away + across[:, None] * side
    if kind == "orbit":
        angle = (
            bearing - reach * 0.35 * sin
        )  # circles the subject while turning: both add up on the far wall
        around = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
        positions = subject + (distance + 0.25 * reach * cos)[:, None] * around
    positions[:, 2] = eye_height + up + jitter[0]
    home = np.arctan2(-away[1], -away[0])
    if kind == "orbit":
        home = np.arctan2(subject[1] - positions[:, 1], subject[0] - positions[:, 0])
    yaw = home + yaw_swing * yaws + jitter[1]
    down = math.atan2(eye_height - 0.85, distance + 0.8)
    pitch = -down + pitch_swing * pitches + jitter[2]
    roll = rng.normal(scale=0.03, size=num_frames)
    poses = np.stack(
        [
            world_to_camera(p, float(y), float(a), float(r))
            for p, y, a, r in zip(positions, yaw, pitch, roll, strict=True)
        ]
    )
    return poses, positions


def _sees_far(room: Room, intrinsics: Array, poses: Array) -> bool:
    """Whether no view is mostly filled by something closer than 0.9 m."""
    for pose in poses:
        origin, rays = pixel_rays(intrinsics, pose, 8, 8)
        depth = cast_distance(room, np.broadcast_to(origin, rays.shape).T, rays.T)
        if np.quantile(depth, 0.25) < 0.9:
            return False
    return True


def _lookout(room: Room, rng: np.random.Generator, num_frames: int) -> Array:
    """Last resort: look around from just under the ceiling in the corner that is clear (furniture is lower)."""
    position = np.array([0.8 * room.half_x, 0.8 * room.half_y, room.height - 0.5])
    yaw = math.atan2(-position[1], -position[0])
    phase = rng.uniform(0, 2 * math.pi) + 4 * math.pi / _TURN * np.arange(num_frames)
    return np.stack(
        [
            world_to_camera(position, yaw + 0.4 * math.sin(p), -0.45 + 0.22 * math.cos(p))
            for p in phase
        ]
    )
