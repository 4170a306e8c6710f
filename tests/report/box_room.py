"""A box room seen by three cameras, and a prediction that is a little wrong: arrays of a geometry picture."""

from __future__ import annotations

from typing import Any

import numpy as np

LOW, HIGH = np.array([-2.0, -1.4, -2.5]), np.array([2.0, 1.2, 2.5])  # y down


def rotation(yaw: float, pitch: float = 0.0) -> np.ndarray:
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return turn @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])


def camera(yaw: float, place: list[float], pitch: float = -0.1) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(yaw, pitch), place
    return pose


def box_room(
    height: int = 36, width: int = 48, noise: float = 0.05, seed: int = 0
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    intrinsics = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]])
    poses = np.stack(
        [
            camera(-0.45, [1.0, -0.2, -1.8]),
            camera(0.0, [0.0, -0.3, -2.0]),
            camera(0.5, [-1.1, -0.1, -1.7]),
        ]
    )
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics).T
    images, depths, points, pred_depths, pred_points = [], [], [], [], []
    predicted = poses.copy()
    for view, pose in enumerate(poses):
        ahead = rays @ pose[:3, :3].T
        with np.errstate(divide="ignore"):
            leave = np.maximum((LOW - pose[:3, 3]) / ahead, (HIGH - pose[:3, 3]) / ahead)
        depth, wall = leave.min(-1), leave.argmin(-1)
        where = pose[:3, 3] + depth[..., None] * ahead
        base = np.array([[200, 110, 90], [150, 150, 140], [90, 130, 190]])[wall]
        checker = (np.floor(where * 2).sum(-1) % 2)[..., None] * 40
        images.append(np.clip(base + checker, 0, 255).astype(np.uint8))
        depths.append(depth)
        points.append(where)
        predicted[view, :3, :3] = rotation(0.05 * view) @ pose[:3, :3]
        predicted[view, :3, 3] += rng.normal(0, 0.08, 3)
        off = depth * (1 + rng.normal(0, noise, depth.shape) + 0.1 * np.sin(u / 6))
        seen = off[..., None] * (rays @ predicted[view, :3, :3].T)
        pred_depths.append(off)
        pred_points.append(predicted[view, :3, 3] + seen)
    valid = np.ones((3, height, width), bool)
    valid[:, :2] = False
    return {
        "images": np.stack(images),
        "true_depth": np.stack(depths).astype(np.float32),
        "valid": valid,
        "pred_depth": np.stack(pred_depths).astype(np.float32),
        "pred_points": np.stack(pred_points).astype(np.float32),
        "true_points": np.stack(points).astype(np.float32),
        "pred_cam_to_world": predicted,
        "true_cam_to_world": poses,
        "intrinsics": np.stack([intrinsics] * 3),
    }
