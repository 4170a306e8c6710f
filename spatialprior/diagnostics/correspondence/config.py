"""Settings of the correspondence score, kept beside every number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CorrespondenceConfig:
    """How features are matched through the scene (VEGA-3D fact sheet, section 6).

    Attributes:
        voxel: Side of a voxel, metres.
        grid: Maps are averaged to ``(rows, cols)`` first, a finer one never made; ``None`` keeps each encoder's
            own, and then numbers of encoders with other grids do not compare.
        min_depth_share: Share of a cell's pixels that must have depth.
        centre: Subtract the clip's mean feature before normalising.
        random_weights: Also score the same architecture with random weights.
        seed: Of the bootstrap.
    """

    voxel: float = 0.1
    grid: tuple[int, int] | None = (14, 14)
    min_depth_share: float = 0.1
    centre: bool = False
    random_weights: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.voxel <= 0:
            raise ValueError(f"correspondence.voxel={self.voxel}: must be positive, metres")
        if not 0 < self.min_depth_share <= 1:
            raise ValueError(
                f"correspondence.min_depth_share={self.min_depth_share}: must be in (0, 1]"
            )
        if self.grid is not None and min(self.grid) < 1:
            raise ValueError(f"correspondence.grid={list(self.grid)}: must be positive")
