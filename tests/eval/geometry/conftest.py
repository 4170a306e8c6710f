"""Clips of uneven surfaces, and what a perfect model would say of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from spatialprior.core.clip import MultiViewClip
from spatialprior.geometry.scene import ScenePrediction


def _clip(
    seed: int = 0, views: int = 4, size: tuple[int, int] = (18, 24), source: str = "s"
) -> MultiViewClip:
    """Random cameras, each before a wavy surface of its own 1 to 3 m away; a tenth of the depth is missing."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [np.sin(rng.uniform(2, 5) * x + rng.uniform(2, 5) * y + k) for k in range(views)]
    world_to_cam = np.tile(np.eye(4), (views, 1, 1))
    world_to_cam[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.4, (views, 3))).as_matrix()
    world_to_cam[:, :3, 3] = rng.normal(0, 0.5, (views, 3))
    focal = 0.8 * width
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return MultiViewClip(
        clip_id=f"clip{seed}",
        source_id=source,
        images=torch.zeros(views, 3, height, width, dtype=torch.uint8),
        frame_ids=tuple(range(views)),
        intrinsics=intrinsics.expand(views, 3, 3),
        world_to_cam=torch.tensor(world_to_cam),
        depth=torch.tensor(2 + np.stack(waves)),
        depth_valid=torch.tensor(rng.random((views, height, width)) > 0.1),
    )


def _perfect(
    clip: MultiViewClip,
    scale: float = 1.0,
    turn: np.ndarray | None = None,
    shift: np.ndarray | None = None,
) -> ScenePrediction:
    """The clip's geometry, lifted by hand, in a world moved by one similarity transform."""
    assert clip.depth is not None and clip.intrinsics is not None and clip.world_to_cam is not None
    depth, k = clip.depth.double(), clip.intrinsics.double()
    _, height, width = depth.shape
    x = (torch.arange(width) + 0.5 - k[0, 0, 2]) / k[0, 0, 0]
    y = (torch.arange(height) + 0.5 - k[0, 1, 2]) / k[0, 1, 1]
    points = torch.stack([x[None, None] * depth, y[None, :, None] * depth, depth], dim=-1)
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, :3] = torch.eye(3) if turn is None else torch.tensor(turn)
    cameras = moved @ torch.linalg.inv(clip.world_to_cam.double())
    cameras[:, :3, 3] *= scale
    if shift is not None:
        cameras[:, :3, 3] += torch.tensor(shift)
    return ScenePrediction(tuple(scale * points), cameras)


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., MultiViewClip]:
    return _clip


@pytest.fixture(scope="session")
def perfect() -> Callable[..., ScenePrediction]:
    return _perfect
