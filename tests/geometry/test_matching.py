from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spatialprior.geometry.cameras import invert, project, unproject
from spatialprior.geometry.matching import (
    EXACT,
    Matches,
    Tolerance,
    all_pairs,
    anchor_pairs,
    grid_points,
    match,
    sample_depth,
)

H, W = 48, 64
K = torch.tensor([[60.0, 0, W / 2], [0, 60, H / 2], [0, 0, 1]])
CARD = (0.15, 1.0)  # a square card of this half-width at this z, before a wall at z = 2


def pose(x: float = 0.0, yaw: float = 0.0) -> Tensor:
    """Camera at (x, 0, 0), turned right by ``yaw``."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    world_to_cam = torch.eye(4)
    world_to_cam[:3, :3] = torch.tensor([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    world_to_cam[:3, 3] = world_to_cam[:3, :3] @ torch.tensor([-x, 0.0, 0.0])
    return world_to_cam


def cast(pixels: Tensor, world_to_cam: Tensor, normal: Tensor, card: bool) -> Tensor:
    """Depth of the plane ``normal . p = 2`` and, before it, of the card."""
    eye = invert(world_to_cam)[:3, 3]
    ray = unproject(pixels, torch.ones(len(pixels)), K, world_to_cam) - eye
    wall = (2 - eye @ normal) / (ray @ normal)
    if not card:
        return wall
    half, z = CARD
    t = (z - eye[2]) / ray[:, 2]
    hit = (eye + t[:, None] * ray)[:, :2].abs().amax(-1) <= half
    return torch.where(hit & (t > 0), t, wall)


def views(
    poses: list[Tensor], normal: tuple[float, float, float] = (0, 0, 1), card: bool = False
) -> Tensor:
    direction = torch.tensor(normal, dtype=torch.float32)
    return torch.stack(
        [cast(grid_points(H, W, H, W), p, direction, card).reshape(H, W) for p in poses]
    )


def run(
    points: Tensor,
    depth: Tensor,
    poses: list[Tensor],
    valid: Tensor | None = None,
    **options: object,
) -> Matches:
    pairs = all_pairs(len(poses))
    intrinsics = K.expand(len(poses), 3, 3)
    return match(points, pairs, depth, valid, intrinsics, torch.stack(poses), **options)  # type: ignore[arg-type]


def test_grid_points_are_cell_centres_row_major() -> None:
    assert grid_points(2, 3, 4, 12).tolist() == [[2, 1], [6, 1], [10, 1], [2, 3], [6, 3], [10, 3]]


def test_pairs() -> None:
    assert all_pairs(3).tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert all_pairs(3, ordered=False).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert anchor_pairs(3, anchor=1).tolist() == [[1, 0], [1, 2]]


def test_a_sideways_step_before_a_wall_is_a_shift() -> None:
    poses = [pose(0), pose(0.2)]
    points = grid_points(7, 9, H, W)  # off the pixel centres
    found = run(points, views(poses), poses, tolerance=EXACT)
    shift = 60 * 0.2 / 2
    expected = points - torch.tensor([shift, 0])
    torch.testing.assert_close(found.points_b[0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.depth_b[0], torch.full((63,), 2.0))
    assert torch.equal(found.visible[0], expected[:, 0] >= 0)


def test_a_pure_turn_needs_no_depth() -> None:
    poses = [pose(yaw=0), pose(yaw=0.3)]
    points = grid_points(5, 5, H, W)
    found = run(points, views(poses, normal=(0.2, 0.1, 1)), poses, tolerance=EXACT)
    homography = K @ poses[1][:3, :3] @ torch.linalg.inv(K)
    turned = torch.cat([points, torch.ones(25, 1)], -1) @ homography.T
    expected = turned[:, :2] / turned[:, 2:]
    seen = found.visible[0]
    assert 10 <= int(seen.sum()) < 25
    torch.testing.assert_close(found.points_b[0][seen], expected[seen], atol=1e-3, rtol=0)


def test_depth_between_pixels_is_exact_on_a_slanted_plane() -> None:
    normal = (0.5, -0.6, 1.0)
    depth = views([pose()], normal=normal)
    rng = torch.Generator().manual_seed(0)
    points = torch.rand(200, 2, generator=rng) * torch.tensor(
        [W, H]
    )  # the rim of the image included
    got, known, moved = sample_depth(depth, None, points.unsqueeze(0))
    torch.testing.assert_close(
        got[0], cast(points, pose(), torch.tensor(normal), card=False), rtol=1e-4, atol=0
    )
    assert bool(known.all()) and torch.equal(moved[0], points)


def test_depth_is_never_mixed_across_an_edge() -> None:
    depth = views([pose()], card=True)
    points = grid_points(4 * H, 4 * W, H, W).unsqueeze(0)
    got, known, moved = sample_depth(depth, None, points)
    assert bool(known.all())
    assert bool(((got - 1).abs().minimum((got - 2).abs()) < 1e-4).all())
    snapped = (moved != points).any(-1)
    assert 0 < float(snapped.float().mean()) < 0.1
    torch.testing.assert_close(moved[snapped] % 1, torch.full_like(moved[snapped], 0.5))
    assert float((moved - points).norm(dim=-1).max()) <= 0.5**0.5 + 1e-6

    _, known, moved = sample_depth(depth, None, points, edges="drop")
    assert torch.equal(known, ~snapped) and torch.equal(moved, points)


def test_hidden_points_do_not_leak_along_silhouettes() -> None:
    # Cameras that step aside: the card hides another strip of the wall from each.
    poses = [pose(0), pose(0.13), pose(-0.21)]
    depth = views(poses, card=True)
    found = run(grid_points(90, 120, H, W), depth, poses, tolerance=EXACT)
    true = torch.zeros_like(found.visible)
    agrees = torch.zeros_like(found.visible)
    for p, (a, b) in enumerate(found.pairs.tolist()):
        surface = cast(found.points_a[p], poses[a], torch.tensor([0.0, 0, 1]), card=True)
        pixels, z = project(unproject(found.points_a[p], surface, K, poses[a]), K, poses[b])
        inside = ((pixels >= 0) & (pixels <= torch.tensor([W, H]))).all(-1)
        first = cast(pixels, poses[b], torch.tensor([0.0, 0, 1]), card=True)
        true[p] = inside & ((first - z).abs() < 1e-3)
        agrees[p] = inside & _any_neighbour_agrees(depth[b], pixels, z)
    hits = (found.visible & true).sum()
    assert float(hits / found.visible.sum()) >= 0.995
    assert float(hits / true.sum()) >= 0.98
    # The common test, one agreeing neighbour, lets several times as many hidden points through.
    assert int((agrees & ~true).sum()) > 3 * int((found.visible & ~true).sum())


def _any_neighbour_agrees(depth: Tensor, pixels: Tensor, z: Tensor) -> Tensor:
    corner = (pixels - 0.5).floor().long()
    hit = torch.zeros(len(z), dtype=torch.bool)
    for dy in (0, 1):
        for dx in (0, 1):
            value = depth[(corner[:, 1] + dy).clamp(0, H - 1), (corner[:, 0] + dx).clamp(0, W - 1)]
            hit |= (value - z).abs() < 0.01
    return hit


def test_behind_the_camera_and_out_of_frame() -> None:
    poses = [pose(0), pose(0, yaw=math.pi), pose(50)]
    found = run(grid_points(4, 4, H, W), views(poses), poses)
    from_first = found.pairs[:, 0] == 0
    assert not bool(found.visible[from_first].any())
    assert bool((found.depth_b[0] < 0).all())
    assert bool(found.points_b.isfinite().all())


@pytest.mark.parametrize("marking", ["mask", "zero", "nan"])
def test_no_valid_depth_means_nothing_visible(marking: str) -> None:
    poses = [pose(0), pose(0.1)]
    depth = views(poses)
    valid = None
    if marking == "mask":
        valid = torch.zeros_like(depth, dtype=torch.bool)
    else:
        depth = torch.full_like(depth, 0.0 if marking == "zero" else math.nan)
    found = run(grid_points(4, 4, H, W), depth, poses, valid)
    assert not bool(found.visible.any())
    assert bool(found.points_b.isfinite().all()) and bool(found.depth_b.isfinite().all())


def test_a_hole_in_b_hides_what_lies_in_it() -> None:
    poses = [pose(0), pose(0)]
    depth = views(poses)
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[1, :, : W // 2] = False
    points = grid_points(6, 8, H, W)
    found = run(points, depth, poses, valid)
    assert torch.equal(found.visible[0], points[:, 0] > W // 2)
    assert torch.equal(found.visible[1], points[:, 0] > W // 2)


def test_own_points_for_every_pair_and_gradient_free_shapes() -> None:
    poses = [pose(0), pose(0.1), pose(0.2)]
    depth = views(poses)
    shared = grid_points(3, 5, H, W)
    own = shared.expand(6, 15, 2)
    a, b = run(shared, depth, poses), run(own, depth, poses)
    assert a.points_b.shape == (6, 15, 2) and a.visible.shape == (6, 15)
    torch.testing.assert_close(a.points_b, b.points_b)
    assert torch.equal(a.visible, b.visible)


def test_tolerance_forgives_noise_up_to_its_size() -> None:
    poses = [pose(0), pose(0)]
    depth = views(poses)
    depth[1] += 0.05  # of 2 m
    points = grid_points(4, 4, H, W)
    loose = run(points, depth, poses, tolerance=Tolerance(absolute=0.03, relative=0.03))
    tight = run(points, depth, poses, tolerance=Tolerance(absolute=0.03, relative=0.01))
    assert bool(loose.visible.all()) and not bool(tight.visible.any())


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="depth V H W"):
        match(
            torch.zeros(4, 2),
            torch.zeros(1, 2).long(),
            torch.ones(H, W),
            None,
            K[None],
            torch.eye(4)[None],
        )
