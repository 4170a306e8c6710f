"""Furniture-like composites around the origin, standing on the floor (z = 0), metres."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from spatialprior.data.rooms.solids import Solid


def _box(x: float, y: float, bottom: float, half_x: float, half_y: float, top: float) -> Solid:
    return Solid("box", (x, y, (bottom + top) / 2), (half_x, half_y, (top - bottom) / 2))


def _pole(x: float, y: float, bottom: float, radius: float, top: float) -> Solid:
    return Solid("cylinder", (x, y, (bottom + top) / 2), (radius, radius, (top - bottom) / 2))


def _orb(z: float, radius: float) -> Solid:
    return Solid("sphere", (0.0, 0.0, z), (radius, radius, radius))


def _ball(s: float) -> list[Solid]:
    return [_orb(0.36 * s, 0.36 * s)]


def _chest(s: float) -> list[Solid]:
    return [_box(0, 0, 0, 0.36 * s, 0.30 * s, 0.62 * s)]


def _barrel(s: float) -> list[Solid]:
    return [_pole(0, 0, 0, 0.32 * s, 0.95 * s)]


def _table(s: float) -> list[Solid]:
    legs = [_box(x * s, 0, 0, 0.05 * s, 0.32 * s, 0.68 * s) for x in (-0.42, 0.42)]
    return [_box(0, 0, 0.68 * s, 0.58 * s, 0.40 * s, 0.78 * s), *legs]


def _chair(s: float) -> list[Solid]:
    return [
        _box(0, 0, 0.40 * s, 0.26 * s, 0.26 * s, 0.50 * s),
        _box(0, -0.22 * s, 0.50 * s, 0.26 * s, 0.05 * s, 1.05 * s),
        _pole(0, 0, 0, 0.09 * s, 0.40 * s),
    ]


def _lamp(s: float) -> list[Solid]:
    return [
        _pole(0, 0, 0, 0.24 * s, 0.08 * s),
        _pole(0, 0, 0.08 * s, 0.05 * s, 1.20 * s),
        _orb(1.42 * s, 0.25 * s),
    ]


def _sofa(s: float) -> list[Solid]:
    arms = [_box(x * s, 0.05 * s, 0, 0.09 * s, 0.35 * s, 0.58 * s) for x in (-0.66, 0.66)]
    return [
        _box(0, 0.05 * s, 0, 0.57 * s, 0.35 * s, 0.40 * s),
        _box(0, -0.38 * s, 0, 0.75 * s, 0.08 * s, 0.86 * s),
        *arms,
    ]


def _shelf(s: float) -> list[Solid]:
    boards = [_box(0, 0, z * s, 0.36 * s, 0.17 * s, (z + 0.07) * s) for z in (0.05, 0.68, 1.32)]
    sides = [_box(x * s, 0, 0, 0.04 * s, 0.17 * s, 1.45 * s) for x in (-0.40, 0.40)]
    return [*boards, *sides]


FURNITURE: dict[str, Callable[[float], list[Solid]]] = {
    "ball": _ball,
    "box": _chest,
    "barrel": _barrel,
    "table": _table,
    "chair": _chair,
    "lamp": _lamp,
    "sofa": _sofa,
    "shelf": _shelf,
}


def build(kind: str, rng: np.random.Generator) -> tuple[list[Solid], float]:
    """Primitives of a piece of furniture of random size, and the radius of a circle around its footprint."""
    solids = FURNITURE[kind](float(rng.uniform(0.95, 1.35)))
    corners = np.concatenate([solid.corners() for solid in solids])
    return solids, math.sqrt(float((corners[:, :2] ** 2).sum(axis=1).max()))
