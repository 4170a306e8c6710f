import hashlib
import subprocess
import sys

import numpy as np
import pytest

from spatialprior.data.rooms.furniture import FURNITURE, build
from spatialprior.data.rooms.paths import PATH_KINDS, make_path
from spatialprior.data.rooms.raycast import cast, pixel_rays, render, visible
from spatialprior.data.rooms.render import render_room
from spatialprior.data.rooms.scene import FIRST_OBJECT, make_room
from spatialprior.data.rooms.solids import Solid, normals

SIZE = 64


def _first_views(seed):
    room = make_room(seed)
    path = make_path(room, 4, SIZE, SIZE)
    return (
        room,
        path,
        [render(room, path.intrinsics, pose, SIZE, SIZE) for pose in path.world_to_cam],
    )


def _column(*values):
    return np.array(values, dtype=float)[:, None]


@pytest.mark.parametrize(
    ("solid", "origin", "direction", "expected"),
    [
        (Solid("sphere", (5, 0, 0), (1, 1, 1)), (0, 0, 0), (2, 0, 0), 2.0),
        (Solid("sphere", (5, 0, 0), (1, 1, 1)), (0, 0.6, 0), (1, 0, 0), 4.2),
        (Solid("sphere", (5, 0, 0), (1, 1, 1)), (0, 0, 0), (-1, 0, 0), np.inf),
        (Solid("sphere", (0, 0, 0), (2, 2, 2)), (0, 0, 0), (0, 1, 0), 2.0),
        (Solid("box", (5, 0, 0), (1, 2, 3)), (0, 1.9, 2.9), (1, 0, 0), 4.0),
        (Solid("box", (5, 0, 0), (1, 2, 3)), (0, 2.1, 0), (1, 0, 0), np.inf),
        (Solid("box", (5, 0, 0), (1, 1, 1), np.pi / 4), (0, 0, 0), (1, 0, 0), 5 - np.sqrt(2)),
        (Solid("cylinder", (0, 0, 0), (1, 1, 2)), (0.5, 0, 9), (0, 0, -1), 7.0),
        (Solid("cylinder", (0, 0, 0), (1, 1, 2)), (-3, 0.8, 1.9), (1, 0, 0), 2.4),
        (Solid("cylinder", (0, 0, 0), (1, 1, 2)), (-3, 0, 2.1), (1, 0, 0), np.inf),
    ],
)
def test_rays_meet_solids_where_the_closed_form_says(solid, origin, direction, expected):
    t = solid.intersect(_column(*origin), _column(*direction))
    assert t[0] == pytest.approx(expected, abs=1e-12)


def test_hit_points_lie_on_the_surface_and_normals_face_the_ray():
    rng = np.random.default_rng(0)
    solids = (
        Solid("box", (0.2, 0, 0), (1, 0.5, 0.8), 0.7),
        Solid("sphere", (0, 0.1, 0), (0.9, 0.9, 0.9)),
        Solid("cylinder", (0, 0, 0.3), (0.6, 0.6, 1.0), 0.3),
    )
    directions = rng.normal(size=(3, 400))
    origins = -5 * directions / np.linalg.norm(directions, axis=0) + rng.uniform(
        -0.3, 0.3, (3, 400)
    )
    for index, solid in enumerate(solids):
        t = solid.intersect(origins, directions)
        hit = np.isfinite(t)
        assert hit.sum() > 300
        points = origins[:, hit] + t[hit] * directions[:, hit]
        local = np.abs(solid.to_local(points - np.array(solid.center)[:, None]))
        half = np.array(solid.half)[:, None]
        radius = np.hypot(local[0], local[1]) - half[0]
        gap = {
            "box": (local - half).max(axis=0),
            "sphere": np.linalg.norm(local, axis=0) - half[0],
            "cylinder": np.maximum(radius, local[2] - half[2]),
        }[solid.shape]
        np.testing.assert_allclose(gap, 0, atol=1e-9)
        normal = normals(solids, np.full(hit.sum(), index), points)
        np.testing.assert_allclose(np.linalg.norm(normal, axis=0), 1, atol=1e-9)
        assert ((normal * directions[:, hit]).sum(axis=0) < 1e-9).all()


def test_rendering_equals_casting_every_ray_without_culling():
    for seed in (3, 11):
        room, path, views = _first_views(seed)
        for pose, view in zip(path.world_to_cam, views, strict=True):
            origin, rays = pixel_rays(path.intrinsics, pose, SIZE, SIZE)
            hits = cast(room, np.broadcast_to(origin, rays.shape).T, rays.T)
            np.testing.assert_array_equal(view.instances.ravel(), hits.instance)
            np.testing.assert_allclose(view.depth.ravel(), hits.t, rtol=1e-6)
            assert np.abs(view.image.reshape(-1, 3).astype(int) - hits.colour).max() <= 1


def test_depth_is_z_at_pixel_centres():
    # The floor is the plane z=0: depth along the ray is the camera's height over the ray's fall.
    _, path, views = _first_views(5)
    pose, view = path.world_to_cam[0], views[0]
    height = (-pose[:3, :3].T @ pose[:3, 3])[2]
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    focal = path.intrinsics[0, 0]
    fall = pose[:3, 2] @ np.stack(
        [(x - SIZE / 2) / focal, (y - SIZE / 2) / focal, np.ones_like(x)]
    ).reshape(3, -1)
    floor = view.instances.ravel() == 0
    assert floor.sum() > 50
    np.testing.assert_allclose(view.depth.ravel()[floor], -height / fall[floor], rtol=1e-6)


def test_a_pixel_reprojected_into_another_view_lands_on_the_same_thing():
    room, path, views = _first_views(7)
    a, b = 0, 1
    origin, rays = pixel_rays(path.intrinsics, path.world_to_cam[a], SIZE, SIZE)
    world = (origin + views[a].depth.ravel() * rays).T
    in_b = world @ path.world_to_cam[b, :3, :3].T + path.world_to_cam[b, :3, 3]
    pixels = (in_b @ path.intrinsics.T)[:, :2] / in_b[:, 2:]
    inside = (in_b[:, 2] > 0) & (pixels > 0).all(axis=1) & (pixels < SIZE).all(axis=1)
    center = -path.world_to_cam[b, :3, :3].T @ path.world_to_cam[b, :3, 3]
    seen = np.flatnonzero(inside)[visible(room, world[inside], center, tolerance=1e-4)]
    assert len(seen) > 500
    hits = cast(room, np.broadcast_to(center, (len(seen), 3)), world[seen] - center)
    np.testing.assert_allclose(hits.points_world, world[seen], atol=2e-4)
    same = hits.instance == views[a].instances.ravel()[seen]
    assert same.mean() > 0.999  # a ray through an edge may fall on either side
    # A surface looks alike from everywhere.
    difference = np.abs(hits.colour[same].astype(int) - views[a].image.reshape(-1, 3)[seen][same])
    assert np.quantile(difference, 0.999) <= 2


def test_hidden_points_are_not_visible():
    room = make_room(1)
    thing = room.objects[0]
    behind = np.array([[*thing.position, 1e-3]])  # the floor under an object
    beside = np.array([[room.half_x - 1e-3, room.half_y - 1e-3, room.height - 1e-3]])
    camera = np.array([thing.position[0] + 0.01, thing.position[1], room.height - 0.1])
    assert not visible(room, behind, camera)[0]
    assert visible(room, beside, camera)[0]


def test_rooms_are_furnished_without_collisions_or_shared_colours():
    for seed in range(25):
        room = make_room(seed)
        assert 4 <= len(room.objects) <= 7
        colours = [thing.colour for thing in room.objects]
        assert len(set(colours)) == len(colours)
        for i, thing in enumerate(room.objects):
            corners = np.concatenate([solid.corners() for solid in thing.solids])
            assert corners[:, 2].min() == pytest.approx(0, abs=1e-9)
            assert (np.abs(corners[:, :2]) < [room.half_x, room.half_y]).all()
            for other in room.objects[:i]:
                assert (
                    np.hypot(*np.subtract(thing.position, other.position))
                    > thing.radius + other.radius
                )
        assert room.kinds[FIRST_OBJECT:] == tuple(thing.kind for thing in room.objects)


def test_every_piece_of_furniture_stands_on_the_floor():
    for kind in FURNITURE:
        solids, radius = build(kind, np.random.default_rng(0))
        corners = np.concatenate([solid.corners() for solid in solids])
        assert corners[:, 2].min() == pytest.approx(0)
        assert np.hypot(corners[:, 0], corners[:, 1]).max() == pytest.approx(radius)


def test_cameras_stay_in_free_space_and_are_rigid():
    kinds = set()
    for seed in range(25):
        room = make_room(seed)
        path = make_path(room, 8, SIZE, SIZE)
        kinds.add(path.kind)
        rotations = path.world_to_cam[:, :3, :3]
        np.testing.assert_allclose(
            rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (8, 1, 1)), atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(rotations), 1)
        assert (rotations[:, 1, 2] < 0).all()  # image rows run downwards in the world
        centers = -np.einsum("tji,tj->ti", rotations, path.world_to_cam[:, :3, 3])
        assert room.is_free(centers, 0.25)
    assert kinds == set(PATH_KINDS)


def test_the_same_place_is_a_poor_guess_at_every_frame_distance():
    cell = SIZE / 16
    x, y = np.meshgrid((np.arange(16) + 0.5) * cell, (np.arange(16) + 0.5) * cell)
    anchors = np.stack([x.ravel(), y.ravel()], axis=1)
    static, overlap = {1: [], 4: []}, {1: [], 4: []}
    for seed in range(500, 516):
        room = make_room(seed)
        path = make_path(room, 5, SIZE, SIZE)
        inverse = np.linalg.inv(path.intrinsics)
        for distance in (1, 4):
            a, b = path.world_to_cam[0], path.world_to_cam[distance]
            rays = (a[:3, :3].T @ inverse @ np.c_[anchors, np.ones(256)].T).T
            center = -a[:3, :3].T @ a[:3, 3]
            world = cast(room, np.broadcast_to(center, rays.shape), rays).points_world
            in_b = world @ b[:3, :3].T + b[:3, 3]
            pixels = (in_b @ path.intrinsics.T)[:, :2] / in_b[:, 2:]
            seen = (in_b[:, 2] > 0) & (pixels > 0).all(axis=1) & (pixels < SIZE).all(axis=1)
            seen &= visible(room, world, -b[:3, :3].T @ b[:3, 3])
            overlap[distance].append(seen.mean())
            if seen.any():
                off = np.linalg.norm(pixels[seen] - anchors[seen], axis=1) / cell
                static[distance].append((off <= 2).mean())
    for distance in (1, 4):
        assert np.mean(static[distance]) < 0.30
        assert np.mean(overlap[distance]) > 0.35


def test_another_process_renders_the_same_pixels():
    code = (
        "import hashlib; from spatialprior.data.rooms.render import render_room; "
        "print(hashlib.sha256(b''.join(a.tobytes() for a in render_room(9, 2, 32).values())).hexdigest())"
    )
    here = hashlib.sha256(b"".join(a.tobytes() for a in render_room(9, 2, 32).values())).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
