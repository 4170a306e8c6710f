"""Matches on the embedded rooms, scored against the ray-caster's own truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spatialprior.data.rooms.paths import make_path
from spatialprior.data.rooms.raycast import cast_distance, render, visible
from spatialprior.data.rooms.scene import make_room
from spatialprior.geometry.cameras import invert, project, unproject
from spatialprior.geometry.matching import EXACT, SENSOR, Tolerance, all_pairs, grid_points, match

SIZE = 128


@pytest.mark.parametrize("tolerance", [EXACT, SENSOR], ids=["exact", "sensor"])
@pytest.mark.parametrize("cells", [8, 24])
def test_precision_recall_and_position(
    cells: int, tolerance: Tolerance, world: list[tuple]
) -> None:
    anchors = grid_points(cells, cells, SIZE, SIZE)
    found_true = found = true = 0
    errors: list[Tensor] = []
    for room, depth, intrinsics, poses in world:
        views = len(poses)
        matches = match(
            anchors, all_pairs(views), depth, None, intrinsics.float().expand(views, 3, 3), poses.float(),
            tolerance=tolerance,
        )  # fmt: skip
        for p, (a, b) in enumerate(matches.pairs.tolist()):
            # The anchor's ray gives its scene point exactly, without any depth map.
            points_a = matches.points_a[p].double()
            eye = invert(poses[a])[:3, 3]
            ray = (
                unproject(points_a, torch.ones(len(points_a)).double(), intrinsics, poses[a]) - eye
            )
            t = cast_distance(room, np.broadcast_to(eye.numpy(), ray.shape), ray.numpy())
            points_world = eye + torch.from_numpy(t)[:, None] * ray
            pixels, z = project(points_world, intrinsics, poses[b])
            inside = (z > 0) & ((pixels >= 0) & (pixels <= SIZE)).all(-1)
            clear = visible(room, points_world.numpy(), invert(poses[b])[:3, 3].numpy())
            truth, said = inside & torch.from_numpy(clear), matches.visible[p]
            found_true += int((truth & said).sum())
            found += int(said.sum())
            true += int(truth.sum())
            errors.append((pixels - matches.points_b[p]).norm(dim=-1)[truth & said])
    assert found > 1000
    assert found_true / found >= 0.99
    assert found_true / true >= 0.97
    assert float(torch.cat(errors).median()) < 0.05


@pytest.fixture(scope="module")
def world() -> list[tuple]:
    rooms = []
    for seed in range(700_000, 700_004):
        room = make_room(seed)
        path = make_path(room, 8, SIZE, SIZE)
        poses = path.world_to_cam[[0, 2, 5, 7]]
        depth = np.stack([render(room, path.intrinsics, pose, SIZE, SIZE).depth for pose in poses])
        rooms.append(
            (
                room,
                torch.from_numpy(depth),
                torch.from_numpy(path.intrinsics),
                torch.from_numpy(poses),
            )
        )
    return rooms
