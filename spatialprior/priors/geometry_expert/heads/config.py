"""Sizes of the geometry heads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class HeadsConfig:
    """What a recipe may set; the defaults are G²VLM's at a 2B backbone (``g2vlm.md`` section 2).

    Attributes:
        width: Channels inside of every decoder; below the backbone's width the heads get cheaper (section 8).
        blocks: Transformer blocks of a decoder.
        heads: Attention heads of a block.
        point_width: Channels a point or confidence decoder puts out.
        camera_width: Channels of the camera head after its decoder.
        global_points: Whether there is a head for points in the first view's frame, a training aid.
        confidence: Whether there is a head for confidence.
    """

    width: int = 1536
    blocks: int = 5
    heads: int = 16
    point_width: int = 1024
    camera_width: int = 512
    global_points: bool = True
    confidence: bool = False

    def __post_init__(self) -> None:
        for name in ("blocks", "point_width", "camera_width"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"geometry heads: {name}={value} must be at least 1")
        check_heads(self.width, self.heads)


def check_heads(width: int, heads: int) -> None:
    """Raise :class:`ValueError` where 2D rotary positions do not fit: two axes of pairs of channels a head."""
    if width < 1 or heads < 1 or width % heads:
        raise ValueError(f"geometry heads: heads={heads} must divide width={width}")
    if (width // heads) % 4:
        raise ValueError(
            f"geometry heads: width={width} / heads={heads} is {width // heads} channels a head; "
            "2D rotary positions need a multiple of 4"
        )
