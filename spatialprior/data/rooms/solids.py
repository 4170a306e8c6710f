"""Analytic solids and exact ray intersection. World axes here: z up, metres.

Rays are stored component first (``3 N``), float64, which keeps every numpy operation contiguous. A ray is
``origin + t * direction``; with directions scaled to unit camera depth, ``t`` *is* the depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_EPS = 1e-9


@dataclass(frozen=True, slots=True)
class Solid:
    """One primitive, turned by ``yaw`` radians about the vertical through its centre.

    Attributes:
        shape: ``"box"``, ``"sphere"`` or ``"cylinder"`` (vertical axis).
        center: World position of the centre.
        half: Half extents along the local axes; a sphere's are all its radius, a cylinder's first two are.
        yaw: Rotation about world z, counter-clockwise seen from above.
    """

    shape: str
    center: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0

    def corners(self) -> Array:
        """``8 3`` world corners of the (turned) bounding box."""
        signs = np.array(
            [[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=np.float64
        )
        local = signs * np.asarray(self.half)
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        turned = np.stack(
            [
                cos * local[:, 0] - sin * local[:, 1],
                sin * local[:, 0] + cos * local[:, 1],
                local[:, 2],
            ],
            axis=1,
        )
        return turned + np.asarray(self.center)

    def to_local(self, vectors: Array) -> Array:
        """Rotate world vectors ``3 N`` into local axes."""
        if self.yaw == 0.0:
            return vectors
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return np.stack(
            [cos * vectors[0] + sin * vectors[1], cos * vectors[1] - sin * vectors[0], vectors[2]]
        )

    def intersect(self, origins: Array, directions: Array) -> Array:
        """Smallest ``t > 0`` of every ray, ``inf`` where it misses.

        Args:
            origins: ``3 N`` or ``3 1``, world.
            directions: ``3 N``, world, of any length.
        """
        o = self.to_local(origins - np.asarray(self.center)[:, None])
        d = self.to_local(directions)
        near, far = _INTERVAL[self.shape](o, d, self.half)
        t = np.where(near > _EPS, near, far)
        t[(near > far) | (t <= _EPS)] = np.inf
        return t

    def contains(self, points: Array, margin: float = 0.0) -> NDArray[np.bool_]:
        """Which of the world points ``3 N`` lie within ``margin`` of the solid's bounding prism."""
        p = np.abs(self.to_local(points - np.asarray(self.center)[:, None]))
        return np.asarray((p <= np.asarray(self.half)[:, None] + margin).all(axis=0))


def _box(o: Array, d: Array, half: tuple[float, float, float]) -> tuple[Array, Array]:
    near = far = None
    for axis in range(3):
        component = d[axis]
        inverse = 1.0 / np.where(np.abs(component) < 1e-12, 1e-12, component)
        middle = -o[axis] * inverse
        reach = half[axis] * np.abs(inverse)
        if near is None or far is None:
            near, far = middle - reach, middle + reach
        else:
            near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
    assert near is not None and far is not None
    return near, far


def _quadratic(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Roots of ``a t^2 + 2 b t + c``; an empty interval (1, -1) where there are none."""
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0.0))
    near, far = (-b - root) / a, (-b + root) / a
    missed = discriminant < 0
    near[missed], far[missed] = 1.0, -1.0
    return near, far


def _sphere(o: Array, d: Array, half: tuple[float, float, float]) -> tuple[Array, Array]:
    return _quadratic((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - half[0] ** 2)


def _cylinder(o: Array, d: Array, half: tuple[float, float, float]) -> tuple[Array, Array]:
    a = np.maximum(d[0] * d[0] + d[1] * d[1], 1e-24)
    near, far = _quadratic(a, o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - half[0] ** 2)
    inverse = 1.0 / np.where(np.abs(d[2]) < 1e-12, 1e-12, d[2])
    middle, reach = -o[2] * inverse, half[2] * np.abs(inverse)
    return np.maximum(near, middle - reach), np.minimum(far, middle + reach)


_INTERVAL = {"box": _box, "sphere": _sphere, "cylinder": _cylinder}


def normals(solids: tuple[Solid, ...], index: NDArray[np.intp], points: Array) -> Array:
    """Outward unit normals ``3 N`` at surface points ``3 N`` of the solids named by ``index`` (``N``)."""
    centers = np.array([s.center for s in solids]).T
    halves = np.array([s.half for s in solids]).T
    yaws = np.array([s.yaw for s in solids])
    shapes = np.array([list(_INTERVAL).index(s.shape) for s in solids])
    cos, sin = np.cos(yaws)[index], np.sin(yaws)[index]
    p = points - centers[:, index]
    local = np.stack([cos * p[0] + sin * p[1], cos * p[1] - sin * p[0], p[2]]) / halves[:, index]
    shape = shapes[index]
    # The face that a point lies on is the one whose scaled coordinate is largest.
    scaled = np.abs(local)
    flat = np.sign(local) * (scaled == scaled.max(axis=0))
    radius = np.hypot(local[0], local[1])
    on_side = radius >= scaled[2]
    side = np.stack([local[0], local[1], np.zeros_like(radius)])
    cap = np.stack([np.zeros_like(radius), np.zeros_like(radius), np.sign(local[2])])
    normal = np.where(shape == 0, flat, np.where(shape == 1, local, np.where(on_side, side, cap)))
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-12)
    return np.stack(
        [cos * normal[0] - sin * normal[1], sin * normal[0] + cos * normal[1], normal[2]]
    )
