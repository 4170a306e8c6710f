"""The heads of one model under one roof."""

from __future__ import annotations

from torch import nn

from spatialprior.priors.geometry_expert.heads.camera import CameraHead
from spatialprior.priors.geometry_expert.heads.confidence import ConfidenceHead
from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.global_points import GlobalPointHead
from spatialprior.priors.geometry_expert.heads.points import PointHead


class GeometryHeads(nn.Module):
    """Heads that share no weight. ``global_points`` and ``confidence`` are ``None`` where switched off.

    Args:
        width_in: Channels of the tokens.
        patch: Side of a patch in pixels.
        config: Sizes, and which heads there are.
    """

    def __init__(self, width_in: int, patch: int, config: HeadsConfig) -> None:
        super().__init__()
        self.points = PointHead(width_in, patch, config)
        self.camera = CameraHead(width_in, config)
        self.global_points = (
            GlobalPointHead(width_in, patch, config) if config.global_points else None
        )
        self.confidence = ConfidenceHead(width_in, patch, config) if config.confidence else None
