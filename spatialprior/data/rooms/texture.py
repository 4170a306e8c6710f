"""Smooth procedural colour, the same from every viewpoint.

A room carries one random RGB field over world coordinates, a sum of plane waves. Surfaces show slices of it
on top of their own base colour, so that any two 8x8-pixel patches of a room differ while a red chair stays red.
Without such textures Q-K matching hardly rises in minutes (the plain-texture runs of the nano study).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OBJECT_COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.12, 0.66, 0.18),
    "blue": (0.14, 0.22, 0.88),
    "yellow": (0.93, 0.84, 0.12),
    "purple": (0.60, 0.14, 0.76),
    "cyan": (0.14, 0.80, 0.86),
    "white": (0.94, 0.94, 0.94),
    "black": (0.09, 0.09, 0.10),
}

_WAVES_PER_CHANNEL = 4


@dataclass(frozen=True)
class ColourField:
    """Sum of plane waves per channel, of about unit variance.

    Attributes:
        frequencies: ``12 3`` float32, radians a metre.
        phases: ``12`` float32.
    """

    frequencies: NDArray[np.float32]
    phases: NDArray[np.float32]

    @staticmethod
    def random(rng: np.random.Generator) -> ColourField:
        """Wavelengths of about 0.8 to 5 m: long ones tell regions apart, short ones neighbouring patches.

        Shorter waves alias within a patch: its colours then depend on where the patch grid happens to lie.
        """
        count = 3 * _WAVES_PER_CHANNEL
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        bands = np.tile(np.geomspace(1.0, 4.0, _WAVES_PER_CHANNEL), 3)
        wavelengths = bands * rng.uniform(0.8, 1.3, size=count)
        return ColourField(
            (directions * (2 * np.pi / wavelengths)[:, None]).astype(np.float32),
            rng.uniform(0, 2 * np.pi, size=count).astype(np.float32),
        )

    def __call__(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """``3 N`` values of the field at world points ``3 N`` (float32)."""
        waves = self.frequencies @ points
        waves += self.phases[:, None]
        np.sin(waves, out=waves)
        summed: NDArray[np.float32] = waves.reshape(3, _WAVES_PER_CHANNEL, -1).sum(axis=1)
        summed *= np.float32((2.0 / _WAVES_PER_CHANNEL) ** 0.5)
        return summed


def muted(rng: np.random.Generator) -> NDArray[np.float32]:
    """A greyish base colour for walls, floors and ceilings."""
    grey = rng.uniform(0.38, 0.60)
    tint = rng.normal(size=3)
    tint -= tint.mean()
    tint *= 0.10 / max(float(np.abs(tint).max()), 1e-6)
    return (grey + tint).astype(np.float32)
