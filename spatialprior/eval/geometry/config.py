"""Settings of the geometry evaluation; printed with each number."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Split = Literal["train", "val", "test"]


@dataclass
class GeometryEvalConfig:
    """What is scored and how; the defaults are those of the published suites (benchmarks.md section 6).

    Attributes:
        clips: Clips to score; 0 leaves the evaluation out.
        split: Which part of the data they come from: ``train``, ``val`` or ``test``.
        max_depth: Truth at or beyond this many metres is not scored (CUT3R: 70 on Sintel and Bonn);
            ``None``: all is.
        icp_threshold: Longest distance of a pair in ICP, metres.
        icp_iterations: At most (Open3D's default).
        normal_neighbours: Points, itself included, that a normal is fitted to (Open3D's default).
        max_points: Points of a clip that ICP, distances and normals look at: pixels drawn without
            replacement, the same for prediction and truth. The published suites take every pixel; a sparser
            cloud lies farther from any other, so figures under different ``max_points`` do not compare.
        seed: Of that draw.
    """

    clips: int = 64
    split: str = "test"
    max_depth: float | None = None
    icp_threshold: float = 0.1
    icp_iterations: int = 30
    normal_neighbours: int = 30
    max_points: int = 20000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clips < 0:
            raise ValueError(f"clips={self.clips}: must not be negative")
        if self.split not in get_args(Split):
            raise ValueError(f"split={self.split!r}: choose one of {', '.join(get_args(Split))}")
        if self.icp_iterations < 0:
            raise ValueError(f"icp_iterations={self.icp_iterations}: must not be negative")
        for name, least in (("normal_neighbours", 3), ("max_points", 3)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")
        if not self.icp_threshold > 0:
            raise ValueError(f"icp_threshold={self.icp_threshold}: must be positive")
        if self.max_depth is not None and not self.max_depth > 0:
            raise ValueError(f"max_depth={self.max_depth}: must be positive, or null for no limit")

    def settings(self) -> dict[str, Any]:
        """What defines a number, for the report."""
        return {name: value for name, value in asdict(self).items() if name != "clips"}
