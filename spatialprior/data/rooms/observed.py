"""What the sampled views of a room show, cell by cell: the facts that questions are made from."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatialprior.data.rooms.scene import FIRST_OBJECT, Room

CELL_PIXELS = 8
LETTERS = "abcdefghijklmnop"
"""Rows and columns of cells are named by letters, so a view has at most 16 x 16 of them."""

_PURE = 0.75


@dataclass(frozen=True)
class Observed:
    """Exact views of one room.

    Attributes:
        room: Names and places of its objects.
        instances: ``V H W`` instance ids.
        depth: ``V H W`` metres.
        intrinsics: ``3 3``; world_to_cam: ``V 4 4``.
    """

    room: Room
    instances: NDArray[np.uint8]
    depth: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    world_to_cam: NDArray[np.float64]

    @property
    def num_views(self) -> int:
        return len(self.instances)

    @property
    def grid(self) -> int:
        """Cells a side by which questions address a view: 8 x 8 pixels each, at most 16 a side."""
        return min(len(LETTERS), self.instances.shape[1] // CELL_PIXELS)

    def _blocks(self, maps: NDArray[Any]) -> NDArray[Any]:
        """``V H W`` maps cut into cells, ``V grid grid pixels``."""
        views, height, width = maps.shape
        n, rows, cols = self.grid, height // self.grid, width // self.grid
        blocks = maps.reshape(views, n, rows, n, cols).transpose(0, 1, 3, 2, 4)
        return blocks.reshape(views, n, n, rows * cols)

    @cached_property
    def cell_instance(self) -> NDArray[np.int64]:
        """``V grid grid`` instance that fills at least three quarters of the cell, -1 for mixed cells."""
        blocks = self._blocks(self.instances)
        share = np.stack(
            [(blocks == i).mean(axis=-1) for i in range(len(self.room.kinds))], axis=-1
        )
        return np.where(share.max(-1) >= _PURE, share.argmax(-1), -1)

    @cached_property
    def cell_depth(self) -> NDArray[np.float32]:
        """``V grid grid`` median depth of each cell, metres."""
        return np.asarray(np.median(self._blocks(self.depth), axis=-1), dtype=np.float32)

    @cached_property
    def _central_pixels(self) -> NDArray[np.intp]:
        cell = self.depth.shape[1] // self.grid
        return np.arange(self.grid) * cell + cell // 2

    @cached_property
    def pixel_share(self) -> NDArray[np.float64]:
        """``V objects``: how much of each view each object fills."""
        ids = range(FIRST_OBJECT, len(self.room.kinds))
        return np.stack([(self.instances == i).mean(axis=(1, 2)) for i in ids], axis=1)

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """``V objects``: clearly seen, over about one cell's worth of pixels."""
        return np.asarray(self.pixel_share >= 1 / self.grid**2)

    @cached_property
    def unclear(self) -> NDArray[np.bool_]:
        """``V objects``: neither clearly seen nor wholly absent."""
        return np.asarray((self.pixel_share > 0) & ~self.seen)

    @cached_property
    def image_x(self) -> NDArray[np.float64]:
        """``V objects`` mean column of each object's pixels (pixels; NaN where absent)."""
        ids = np.arange(FIRST_OBJECT, len(self.room.kinds))
        columns = np.arange(self.instances.shape[2]) + 0.5
        mask = (self.instances[:, None] == ids[None, :, None, None]).sum(axis=2)
        total = mask.sum(axis=-1)
        return np.where(total > 0, (mask * columns).sum(axis=-1) / np.maximum(total, 1), np.nan)

    @cached_property
    def centers(self) -> NDArray[np.float64]:
        """``objects 3`` world centres."""
        return np.stack([thing.center for thing in self.room.objects])

    @cached_property
    def luck(self) -> float:
        """A number in [0, 1) that depends on the views alone, for choices that must not be drawn twice."""
        return zlib.crc32(self.world_to_cam.tobytes()) / 2**32

    def colour(self, instance: int) -> str:
        return self.room.colours[instance]

    def gaze(self, view: int) -> NDArray[np.float64]:
        """Unit viewing direction, world."""
        return self.world_to_cam[view, 2, :3]

    def position(self, view: int) -> NDArray[np.float64]:
        """Camera centre, world metres."""
        pose = self.world_to_cam[view]
        return -pose[:3, :3].T @ pose[:3, 3]

    def matches(self, a: int, b: int) -> NDArray[np.int64]:
        """``cells 2``: where b shows each cell centre of view a, as (row, col); -1 where not plainly."""
        height, width = self.depth.shape[1:]
        index = self._central_pixels
        v, u = (grid.ravel() for grid in np.meshgrid(index, index, indexing="ij"))
        z = self.depth[a, v, u].astype(np.float64)
        rays = np.linalg.inv(self.intrinsics) @ np.stack([u + 0.5, v + 0.5, np.ones(len(u))])
        rotation, shift = self.world_to_cam[a, :3, :3], self.world_to_cam[a, :3, 3:]
        world = rotation.T @ (rays * z - shift)
        in_b = self.world_to_cam[b, :3, :3] @ world + self.world_to_cam[b, :3, 3:]
        pixel = (self.intrinsics @ in_b)[:2] / np.maximum(in_b[2], 1e-6)
        inside = (in_b[2] > 0.05) & (pixel >= 0).all(0) & (pixel[0] < width) & (pixel[1] < height)
        x, y = np.where(inside, pixel, 0.0)
        seen_depth = self.depth[b, y.astype(int), x.astype(int)]
        visible = inside & (np.abs(seen_depth - in_b[2]) < 0.03 * in_b[2])
        col, row = x * self.grid / width, y * self.grid / height
        central = (np.abs(col % 1 - 0.5) < 0.35) & (np.abs(row % 1 - 0.5) < 0.35)
        here = self.cell_instance[a].ravel()
        there = self.cell_instance[b, row.astype(int), col.astype(int)]
        plain = visible & central & (here >= 0) & (here == there)
        return np.where(plain[:, None], np.stack([row, col], axis=1).astype(np.int64), -1)


def cell_name(row: int, col: int) -> str:
    """How a question writes a cell: ``cell c k`` is row c, column k, counted from the top left."""
    return f"cell {LETTERS[row]} {LETTERS[col]}"


def pick(rng: np.random.Generator, items: Sequence[object] | NDArray[np.generic]) -> int:
    """Random index into a non-empty sequence."""
    return int(rng.integers(len(items)))
