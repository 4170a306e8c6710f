"""Ground-truth matches: anchors first, against projecting every pixel and sampling afterwards.

Both get the same 8 frames of 294x518 and hand back 512 anchors of frame 0 with their places and visibility in
the 7 other frames. One thread by default, as in a loader worker: with more threads than idle cores both sides
measure OpenMP's barriers.

    python benchmarks/matches.py [--rounds 40] [--threads 1] [--out benchmarks/results/matches.json]
"""

from __future__ import annotations

import sys

import numpy as np
import paired
import torch
from torch import Tensor

from spatialprior.geometry.cameras import invert, project, unproject
from spatialprior.geometry.matching import SENSOR, anchor_pairs, grid_points, match

VIEWS, HEIGHT, WIDTH, ANCHORS = 8, 294, 518, 512


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """A ball before a wall, seen from cameras that move sideways: depth, intrinsics, poses."""
    intrinsics = torch.tensor([[400.0, 0, WIDTH / 2], [0, 400, HEIGHT / 2], [0, 0, 1]]).expand(
        VIEWS, 3, 3
    )
    poses = torch.eye(4).repeat(VIEWS, 1, 1)
    poses[:, 0, 3] = torch.linspace(0, -0.7, VIEWS)
    pixels = grid_points(HEIGHT, WIDTH, HEIGHT, WIDTH)
    depths = []
    for k, pose in zip(intrinsics, poses, strict=True):
        eye = invert(pose)[:3, 3]
        ray = unproject(pixels, torch.ones(len(pixels)), k, pose) - eye
        to_eye = eye - torch.tensor([0.3, 0.0, 2.0])
        a, b, c = (ray * ray).sum(-1), (ray * to_eye).sum(-1), to_eye @ to_eye - 0.25
        root = b * b - a * c
        ball = torch.where(root > 0, (-b - root.clamp(min=0).sqrt()) / a, torch.inf)
        depths.append(ball.clamp(max=3.0).reshape(HEIGHT, WIDTH))
    return torch.stack(depths), intrinsics, poses


def anchors_first(depth: Tensor, intrinsics: Tensor, poses: Tensor, points: Tensor) -> Tensor:
    pairs = anchor_pairs(VIEWS)
    return match(points, pairs, depth, None, intrinsics, poses, tolerance=SENSOR).visible


def pixels_first(depth: Tensor, intrinsics: Tensor, poses: Tensor, points: Tensor) -> Tensor:
    """Every pixel of frame 0 into every other frame; a pixel is seen where one of four neighbours agrees."""
    pixels = grid_points(HEIGHT, WIDTH, HEIGHT, WIDTH)
    points_world = unproject(pixels, depth[0].reshape(-1), intrinsics[0], poses[0])
    pixels_b, z = project(points_world, intrinsics[1:], poses[1:])
    inside = (
        (z > 0)
        & (pixels_b >= 0).all(-1)
        & (pixels_b <= pixels_b.new_tensor([WIDTH, HEIGHT])).all(-1)
    )
    corner = (pixels_b - 0.5).floor().long()
    view = torch.arange(1, VIEWS).unsqueeze(-1)
    seen = torch.zeros_like(inside)
    for dy in (0, 1):
        for dx in (0, 1):
            x = (corner[..., 0] + dx).clamp(0, WIDTH - 1)
            y = (corner[..., 1] + dy).clamp(0, HEIGHT - 1)
            seen |= (depth[view, y, x] - z).abs() <= (SENSOR.relative * z).clamp(
                min=SENSOR.absolute
            )
    seen &= inside
    chosen = points[:, 1].long() * WIDTH + points[:, 0].long()
    return seen[:, chosen]


def main() -> int:
    args = paired.parser(__doc__, rounds=40).parse_args()
    torch.set_num_threads(args.threads)
    depth, intrinsics, poses = scene()
    rng = np.random.default_rng(0)
    places = rng.uniform((0, 0), (WIDTH, HEIGHT), (ANCHORS, 2))
    points = torch.from_numpy(places).float().floor() + 0.5
    inputs = (depth, intrinsics, poses, points)
    timings = paired.interleave(
        {"anchors": lambda: anchors_first(*inputs), "pixels": lambda: pixels_first(*inputs)},
        args.rounds,
    )
    agreement = (anchors_first(*inputs) == pixels_first(*inputs)).float().mean().item()
    setting = {
        "frames": VIEWS,
        "height": HEIGHT,
        "width": WIDTH,
        "anchors": ANCHORS,
        "same_visibility": agreement,
    }
    cases = {"every pixel / anchors first": timings.case("pixels", "anchors", (">=", 20))}
    return paired.finish("matches", args, cases, setting)


if __name__ == "__main__":
    sys.exit(main())
