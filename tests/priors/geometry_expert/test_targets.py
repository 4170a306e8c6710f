"""True points against closed forms, at the clip's own size and at others."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from spatialprior.geometry.cameras import transform
from spatialprior.priors.geometry_expert.targets import SceneTruth, pixel_centers, scene_truth
from spatialprior.testing import plane_clip

CPU = torch.device("cpu")
NORMAL = F.normalize(torch.tensor([0.4, -0.2, 1.0]), dim=0)
DISTANCE = 3.0  # of the plane of ``plane_clip``, metres


def truth_at(clip, size, box=None) -> SceneTruth:
    height, width = clip.images.shape[-2:]
    box = box or (0.0, 0.0, float(width), float(height))
    return scene_truth(clip, [size] * clip.num_views, [box] * clip.num_views, CPU)


def test_points_of_a_plane_lie_on_it():
    clip = plane_clip(num_views=3, size=(30, 42))
    truth = truth_at(clip, (30, 42))
    for view in range(3):
        assert truth.valid[view].all() and truth.points_cam[view].shape == (30, 42, 3)
        world = transform(truth.points_cam[view].flatten(0, 1), truth.cam_to_world[view])
        assert torch.allclose(world @ NORMAL, torch.tensor(DISTANCE), atol=1e-4)
        assert torch.allclose(truth.points_cam[view][..., 2], clip.depth[view], atol=1e-5)
    identity = truth.cam_to_world @ clip.world_to_cam
    assert torch.allclose(identity, torch.eye(4).expand(3, 4, 4), atol=1e-5)


@pytest.mark.parametrize("size", [(90, 126), (10, 14), (45, 30)])
def test_at_another_size_each_pixel_has_the_nearest_depth_along_its_own_ray(size):
    clip = plane_clip(num_views=2, size=(30, 42))
    truth = truth_at(clip, size)
    focal, cx, cy = (float(clip.intrinsics[0][at]) for at in ((0, 0), (0, 2), (1, 2)))
    for view in range(2):
        for row in range(0, size[0], 4):
            for col in range(0, size[1], 3):
                u, v = (col + 0.5) * 42 / size[1], (row + 0.5) * 30 / size[0]
                depth = float(clip.depth[view, int(v), int(u)])
                wanted = torch.tensor([(u - cx) / focal * depth, (v - cy) / focal * depth, depth])
                assert torch.allclose(truth.points_cam[view][row, col], wanted, atol=1e-5)
    if size[0] % 30 == 0:  # centres of the clip's own pixels are among these: still on the plane
        world = transform(truth.points_cam[1][1::3, 1::3].flatten(0, 1), truth.cam_to_world[1])
        assert torch.allclose(world @ NORMAL, torch.tensor(DISTANCE), atol=1e-4)


def test_a_crop_and_missing_depth():
    clip = plane_clip(num_views=1, size=(24, 40))
    depth, valid = clip.depth.clone(), clip.depth_valid.clone()
    depth[0, 4, 10], valid[0, 5, 11] = 0.0, False
    clip = dataclasses.replace(clip, depth=depth, depth_valid=valid)
    whole, crop = truth_at(clip, (24, 40)), truth_at(clip, (16, 24), (8.0, 4.0, 32.0, 20.0))
    assert torch.equal(crop.points_cam[0][1:], whole.points_cam[0][5:20, 8:32])
    assert torch.equal(crop.valid[0], whole.valid[0][4:20, 8:32])
    assert (~whole.valid[0]).nonzero().tolist() == [[4, 10], [5, 11]]
    assert whole.points_cam[0].isfinite().all()
    centers = pixel_centers((16, 24), (8.0, 4.0, 32.0, 20.0))
    assert centers[0, 0].tolist() == [8.5, 4.5] and centers[-1, -1].tolist() == [31.5, 19.5]
    alike = dataclasses.replace(clip, depth_valid=None)
    assert (~truth_at(alike, (24, 40)).valid[0]).nonzero().tolist() == [[4, 10]]
