from __future__ import annotations

import torch

from spatialprior.data.posed_rgbd.register import register_depth
from spatialprior.geometry.matching import grid_points


def camera(focal: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def test_a_slanted_plane_lands_where_it_should() -> None:
    depth_k, color_k = camera(58.5, 48, 64), camera(52.5, 48, 64)
    # z = 2 + 0.5 x in the depth camera; the colour camera sits 5 cm to the right.
    x = (grid_points(48, 64, 48, 64)[:, 0] - 32) / 58.5
    depth = (2 / (1 - 0.5 * x)).reshape(1, 48, 64)
    shift = torch.eye(4)
    shift[0, 3] = -0.05
    out, valid = register_depth(
        depth, torch.ones_like(depth).bool(), depth_k, color_k, shift, (48, 64)
    )
    x_color = (grid_points(48, 64, 48, 64)[:, 0] - 32) / 52.5
    true = ((2 + 0.5 * 0.05) / (1 - 0.5 * x_color)).reshape(48, 64)
    assert float(valid[0, 6:-6, 8:-8].float().mean()) > 0.999
    error = ((out[0] - true) / true).abs()[valid[0]]
    assert (
        float(error.median()) < 0.004 and float(error.max()) < 0.02
    )  # up to half a depth pixel of slope


def test_magnified_surfaces_close_and_hide_what_is_behind() -> None:
    # Colour has twice the resolution: without a footprint three of four pixels would be holes, and the wall
    # would show through the card.
    depth = torch.full((1, 24, 32), 3.0)
    depth[0, 6:18, 8:24] = 1.0
    shift = torch.eye(4)
    shift[0, 3] = -0.1
    out, valid = register_depth(
        depth,
        torch.ones_like(depth).bool(),
        camera(30, 24, 32),
        camera(60, 48, 64),
        shift,
        (48, 64),
    )
    # The card covers colour columns 16..47, moved by 60 * -0.1 / 1 = -6.
    card = out[0, 13:35, 11:41]
    assert bool(valid[0, 13:35, 11:41].all())
    assert bool((card == 1).all())
    assert bool((out[0][valid[0]] == 1).sum() < 1.2 * 24 * 32)  # and it does not grow by much


def test_holes_stay_holes_and_views_do_not_mix() -> None:
    depth = torch.full((2, 20, 20), 2.0)
    valid = torch.ones_like(depth).bool()
    valid[1] = False
    depth[1] = 0.5
    k = camera(30, 20, 20)
    out, known = register_depth(depth, valid, k, k, torch.eye(4), (20, 20))
    assert bool(known[0].all()) and not bool(known[1].any())
    assert bool((out[0] == 2).all())
