"""What a model says of the geometry of a clip: point maps and cameras, up to one similarity transform."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScenePrediction:
    """Geometry of the V views of one clip. All lengths share one unknown scale.

    A point map covers its whole view, in as many pixels as the model likes: cell (row, col) of ``H W`` stands
    for the same share of the view.

    Attributes:
        points_cam: V tensors ``H W 3``, each in the frame of its own camera; z is depth.
        cam_to_world: ``V 4 4`` rigid transforms into any one frame.
        confidence: V tensors ``H W`` in [0, 1], or ``None``.
    """

    points_cam: tuple[Tensor, ...]
    cam_to_world: Tensor
    confidence: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.points_cam), 4, 4)
        if self.cam_to_world.shape != shape:
            raise ValueError(
                f"{shape[0]} point maps need cameras of shape {shape}, got {tuple(self.cam_to_world.shape)}"
            )
