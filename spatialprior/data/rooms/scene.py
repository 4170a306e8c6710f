"""A furnished room: who stands where, in which colour. World axes: z up, floor at z = 0, metres."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from spatialprior.data.rooms.furniture import FURNITURE, build
from spatialprior.data.rooms.solids import Array, Solid
from spatialprior.data.rooms.texture import OBJECT_COLOURS, ColourField, muted

STRUCTURE: tuple[str, ...] = ("floor", "ceiling", "wall", "wall", "wall", "wall")
"""Kind of instance ids 0 to 5: floor (z=0), ceiling, walls at x=-w, x=+w, y=-d, y=+d."""

FIRST_OBJECT = len(STRUCTURE)
"""Instance id of the first piece of furniture."""

_ROOM_STREAM = 0x0A


@dataclass(frozen=True)
class Furniture:
    """One named object, one instance id, one colour that no other object of the room has."""

    kind: str
    colour: str
    position: tuple[float, float]
    radius: float
    solids: tuple[Solid, ...]

    @property
    def center(self) -> Array:
        """World position of the middle of its bounding box."""
        corners = np.concatenate([solid.corners() for solid in self.solids])
        return np.asarray((corners.min(0) + corners.max(0)) / 2)


@dataclass(frozen=True)
class Room:
    """An empty box of half extents ``half_x, half_y`` and ``height``, with furniture in it.

    Attributes:
        seed: What :func:`make_room` was given; names the room.
        base_colours: ``ids 3`` float32, colour of every instance before texture.
        texture_gains: ``ids`` float32, how strongly the colour field shows on it.
        field: The room's colour field.
    """

    seed: int
    half_x: float
    half_y: float
    height: float
    objects: tuple[Furniture, ...]
    base_colours: NDArray[np.float32]
    texture_gains: NDArray[np.float32]
    field: ColourField

    @cached_property
    def solids(self) -> tuple[Solid, ...]:
        """All primitives, object by object."""
        return tuple(solid for thing in self.objects for solid in thing.solids)

    @cached_property
    def solid_instance(self) -> NDArray[np.int64]:
        """Instance id of each of :attr:`solids`."""
        return np.array(
            [FIRST_OBJECT + i for i, thing in enumerate(self.objects) for _ in thing.solids],
            dtype=np.int64,
        )

    @cached_property
    def solid_corners(self) -> Array:
        """``solids 8 3`` world corners of their bounding boxes."""
        return np.stack([solid.corners() for solid in self.solids])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of every instance id."""
        return STRUCTURE + tuple(thing.kind for thing in self.objects)

    @property
    def colours(self) -> tuple[str, ...]:
        """Colour name of every instance id, empty for floor, ceiling and walls."""
        return ("",) * FIRST_OBJECT + tuple(thing.colour for thing in self.objects)

    def is_free(self, points: Array, margin: float) -> bool:
        """Whether all world points ``N 3`` keep ``margin`` from walls, floor, ceiling and furniture."""
        inside = (
            (np.abs(points[:, 0]) <= self.half_x - margin)
            & (np.abs(points[:, 1]) <= self.half_y - margin)
            & (points[:, 2] >= margin)
            & (points[:, 2] <= self.height - margin)
        )
        return bool(inside.all()) and not any(
            s.contains(points.T, margin).any() for s in self.solids
        )


@lru_cache(maxsize=512)
def make_room(seed: int) -> Room:
    """The room of this seed, the same in every process: 4 to 7 objects that do not touch one another."""
    rng = np.random.Generator(np.random.Philox(key=[seed, _ROOM_STREAM]))
    half_x, half_y = rng.uniform(2.5, 3.4, size=2).tolist()
    height = float(rng.uniform(2.6, 3.2))
    colours = [list(OBJECT_COLOURS)[i] for i in rng.permutation(len(OBJECT_COLOURS))]
    wanted = int(rng.integers(4, 8))
    objects: list[Furniture] = []
    for _ in range(60 * wanted):
        if len(objects) == wanted:
            break
        kind = list(FURNITURE)[int(rng.integers(len(FURNITURE)))]
        solids, radius = build(kind, rng)
        position = rng.uniform([-0.66 * half_x, -0.66 * half_y], [0.66 * half_x, 0.66 * half_y])
        yaw = float(rng.uniform(0, 2 * math.pi))
        walls_clear = abs(position[0]) + radius < half_x and abs(position[1]) + radius < half_y
        others_clear = all(
            math.dist(position, o.position) > radius + o.radius + 0.05 for o in objects
        )
        if walls_clear and others_clear:
            placed = tuple(_place(solid, position, yaw) for solid in solids)
            x, y = position.tolist()
            objects.append(Furniture(kind, colours[len(objects)], (x, y), radius, placed))
    structure = np.stack([muted(rng) for _ in STRUCTURE])
    base = np.concatenate(
        [structure, np.array([OBJECT_COLOURS[o.colour] for o in objects], dtype=np.float32)]
    )
    gains = np.array([0.14] * len(STRUCTURE) + [0.10] * len(objects), dtype=np.float32)
    return Room(seed, half_x, half_y, height, tuple(objects), base, gains, ColourField.random(rng))


def _place(solid: Solid, position: Array, yaw: float) -> Solid:
    """Turn a solid about the origin's vertical and move it to ``position`` on the floor."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    x, y, z = solid.center
    moved = (float(position[0] + cos * x - sin * y), float(position[1] + sin * x + cos * y), z)
    return Solid(solid.shape, moved, solid.half, solid.yaw + yaw)
