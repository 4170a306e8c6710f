"""Exact ray casting of a room: images, depth, instance masks, and the truth about visibility."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatialprior.data.rooms.scene import FIRST_OBJECT, Room
from spatialprior.data.rooms.solids import Array, normals

_LIGHT = np.array([0.36, 0.48, 0.80])
_STRUCTURE_SHADE = np.array([1.00, 1.05, 0.90, 1.00, 0.94, 1.06], dtype=np.float32)


@dataclass(frozen=True)
class Hits:
    """What N rays hit.

    Attributes:
        t: ``N`` ray parameter of the first surface (depth, when directions have unit camera z).
        instance: ``N`` int64 instance id.
        points_world: ``N 3`` metres.
        colour: ``N 3`` uint8 RGB.
    """

    t: Array
    instance: NDArray[np.int64]
    points_world: Array
    colour: NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """A rendered frame: everything exact at pixel centres.

    Attributes:
        image: ``H W 3`` uint8 RGB.
        depth: ``H W`` float32, z in the camera, metres; valid everywhere.
        instances: ``H W`` uint8 instance ids of the room.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instances: NDArray[np.uint8]


def cast(room: Room, origins: Array, directions: Array) -> Hits:
    """Cast ``N`` rays from inside the room. ``origins`` and ``directions`` are ``N 3``, world, float64."""
    o, d = np.ascontiguousarray(origins.T), np.ascontiguousarray(directions.T)
    t, instance = _shell(room, o, d)
    solid = np.full(t.shape, -1, dtype=np.intp)
    for index, primitive in enumerate(room.solids):
        hit = primitive.intersect(o, d)
        closer = hit < t
        t[closer], solid[closer] = hit[closer], index
    on_object = solid >= 0
    instance[on_object] = room.solid_instance[solid[on_object]]
    points = o + t * d
    return Hits(
        t, instance, np.ascontiguousarray(points.T), _colour(room, points, instance, solid).T
    )


def pixel_rays(
    intrinsics: Array, world_to_cam: Array, height: int, width: int
) -> tuple[Array, Array]:
    """World camera centre (``3 1``) and directions (``3 H*W``, unit camera depth) through all pixel centres."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([x.ravel(), y.ravel(), np.ones(height * width)])
    rotation, translation = world_to_cam[:3, :3], world_to_cam[:3, 3:]
    return -rotation.T @ translation, (rotation.T @ np.linalg.inv(intrinsics)) @ pixels


def render(room: Room, intrinsics: Array, world_to_cam: Array, height: int, width: int) -> View:
    """Render one pinhole view. Each primitive is tested only against the rays of its screen rectangle."""
    origin, rays = pixel_rays(intrinsics, world_to_cam, height, width)
    shell_t, instance = _shell(room, origin, rays)
    t = shell_t.reshape(height, width)
    solid = np.full((height, width), -1, dtype=np.intp)
    grid = rays.reshape(3, height, width)
    for index, (x0, x1, y0, y1) in enumerate(
        _screen_boxes(room, intrinsics, world_to_cam, height, width)
    ):
        if x0 >= x1 or y0 >= y1:
            continue
        window = (slice(y0, y1), slice(x0, x1))
        hit = room.solids[index].intersect(origin, grid[(slice(None), *window)].reshape(3, -1))
        hit = hit.reshape(y1 - y0, x1 - x0)
        closer = hit < t[window]
        t[window][closer] = hit[closer]
        solid[window][closer] = index
    flat_solid = solid.ravel()
    on_object = flat_solid >= 0
    instance[on_object] = room.solid_instance[flat_solid[on_object]]
    flat_t = t.ravel()
    colour = _colour(room, origin + flat_t * rays, instance, flat_solid)
    return View(
        image=np.ascontiguousarray(colour.T).reshape(height, width, 3),
        depth=flat_t.astype(np.float32).reshape(height, width),
        instances=instance.astype(np.uint8).reshape(height, width),
    )


def visible(
    room: Room, points_world: Array, camera_center: Array, tolerance: float = 1e-4
) -> NDArray[np.bool_]:
    """Whether nothing lies between the camera and each world point (``N 3``); ``tolerance`` in metres.

    This asks about occlusion only: whether a point is inside an image is the projection's business.
    """
    directions = points_world - camera_center
    length = np.linalg.norm(directions, axis=1)
    origins = np.broadcast_to(camera_center, directions.shape)
    hits = cast_distance(room, origins, directions / length[:, None])
    return np.asarray(hits >= length - tolerance)


def cast_distance(room: Room, origins: Array, directions: Array) -> Array:
    """``t`` of the first surface along rays ``N 3``: :func:`cast` without colour."""
    o, d = np.ascontiguousarray(origins.T), np.ascontiguousarray(directions.T)
    t, _ = _shell(room, o, d)
    for primitive in room.solids:
        np.minimum(t, primitive.intersect(o, d), out=t)
    return t


def _shell(room: Room, origins: Array, directions: Array) -> tuple[Array, NDArray[np.int64]]:
    """Where rays from inside leave the empty room: ``t`` and the instance id of floor, ceiling or wall."""
    low, high = (-room.half_x, -room.half_y, 0.0), (room.half_x, room.half_y, room.height)
    ids = ((2, 3), (4, 5), (0, 1))
    t = np.full(directions.shape[1], np.inf)
    instance = np.zeros(directions.shape[1], dtype=np.int64)
    for axis in range(3):
        d = directions[axis]
        forward = d > 0
        d = np.where(np.abs(d) < 1e-12, 1e-12, d)
        exit_t = (np.where(forward, high[axis], low[axis]) - origins[axis]) / d
        exit_t = np.where(exit_t < 0, np.inf, exit_t)
        closer = exit_t < t
        np.copyto(t, exit_t, where=closer)
        np.copyto(instance, np.where(forward, ids[axis][1], ids[axis][0]), where=closer)
    return t, instance


def _screen_boxes(
    room: Room, intrinsics: Array, world_to_cam: Array, height: int, width: int
) -> NDArray[np.intp]:
    """``solids 4``: pixel range ``x0, x1, y0, y1`` of each primitive, ``x0 >= x1`` where it is not in view."""
    if not room.solids:
        return np.zeros((0, 4), dtype=np.intp)
    corners = room.solid_corners @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
    depth = corners[..., 2]
    projected = corners @ intrinsics.T
    pixels = projected[..., :2] / np.maximum(depth, 1e-6)[..., None]
    low = np.floor(pixels.min(axis=1)).clip(0, [width, height])
    high = np.ceil(pixels.max(axis=1)).clip(0, [width, height])
    # A box that crosses the camera plane has no bounded projection: test every ray.
    crosses, behind = depth.min(axis=1) < 0.05, depth.max(axis=1) <= 0
    low[crosses], high[crosses] = 0, (width, height)
    high[behind] = -1
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1).astype(np.intp)


def _colour(
    room: Room, points: Array, instance: NDArray[np.int64], solid: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """``3 N`` uint8: base colour, texture and a fixed light, so a surface point looks alike from everywhere."""
    shade = np.ones(instance.shape, dtype=np.float32)
    on_object = np.flatnonzero(solid >= 0)
    if on_object.size:
        normal = normals(room.solids, solid[on_object], points[:, on_object])
        shade[on_object] = 0.80 + 0.24 * (_LIGHT @ normal)
    shell = instance < FIRST_OBJECT
    shade[shell] = _STRUCTURE_SHADE[instance[shell]]
    colour = room.field(points.astype(np.float32))
    colour *= room.texture_gains[instance]
    colour += room.base_colours.T[:, instance]
    colour *= shade * np.float32(255.0)
    return np.clip(colour, 0.0, 255.0, out=colour).astype(np.uint8)
