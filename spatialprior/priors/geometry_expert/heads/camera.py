"""The pose of every image's camera."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.decoder import PatchDecoder
from spatialprior.priors.geometry_expert.heads.output import Float32Linear, start_at
from spatialprior.priors.geometry_expert.heads.rotation import rotation_from_rows

_RESIDUAL_BLOCKS = 2


class ResidualBlock(nn.Module):
    """``x`` and three linear maps of it, a ReLU after each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(Float32Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for module in self.maps:
            y = F.relu(module(y))
        return x + y


class CameraHead(nn.Module):
    """Decoder, residual blocks a patch, mean over patches, two hidden maps, pose (``g2vlm.md`` section 2).

    Everything after the decoder is in float32. Starts near the identity.

    Args:
        width_in: Channels of the tokens.
        config: Sizes.
    """

    def __init__(self, width_in: int, config: HeadsConfig) -> None:
        super().__init__()
        width = config.camera_width
        self.decoder = PatchDecoder(width_in, config.width, width, config.blocks, config.heads)
        self.residual = nn.ModuleList(ResidualBlock(width) for _ in range(_RESIDUAL_BLOCKS))
        self.hidden = nn.ModuleList(Float32Linear(width, width) for _ in range(2))
        self.translation = Float32Linear(width, 3)
        self.rotation = Float32Linear(width, 9)
        start_at(self.translation, torch.zeros(3))
        start_at(self.rotation, torch.eye(3).flatten())

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """``N P D`` of a grid ``(rows, cols)`` to ``cam_to_world``, ``N 4 4`` float32; any frame and scale."""
        x = self.decoder(tokens, grid).float()
        for block in self.residual:
            x = block(x)
        x = x.mean(1)
        for module in self.hidden:
            x = F.relu(module(x))
        rotation = rotation_from_rows(self.rotation(x).unflatten(-1, (3, 3)))
        upper = torch.cat([rotation, self.translation(x).unsqueeze(-1)], dim=-1)
        last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(upper), 1, 4)
        return torch.cat([upper, last], dim=1)
