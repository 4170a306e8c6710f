"""A batch as the backbone sees it: processor outputs, labels, the token map and the clips behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spatialprior.core.clip import MultiViewClip
from spatialprior.core.reserve import ReservedTokens
from spatialprior.core.token_map import TokenMap

IGNORE = -100
"""Label of positions where nothing is scored (the convention of torch and transformers)."""


@dataclass(frozen=True)
class ClipBatch:
    """Encoded clips.

    Attributes:
        inputs: Keyword arguments of the Hugging Face model's ``forward`` (``pixel_values``, ...).
        labels: ``B S`` long, the token expected *at* each position, -100 where nothing is scored.
        token_map: Where the visual tokens are.
        visual: ``B S`` bool, every visual token, also those that lie in no grid.
        clips: The clips themselves (geometry and questions stay on the CPU).
        branches: ``B S`` long, only when several questions share one visual prefix: 0 for the prefix (and for
            all of a dialogue), k for the tokens of question k, -1 for padding. A token sees the earlier tokens
            of the prefix and of its own branch, nothing else.
        echo: Where a second copy of every view sits, behind the views themselves, when a prior asked for it
            (``Needs.echo``).
        reserved: Tokens that a prior asked for and fills itself (``Needs.reserve``).
        step: The optimiser step that the batch belongs to. With a clip's id it seeds whatever a prior draws
            at random, so that the draws do not depend on micro-batches, processes or a resume.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    token_map: TokenMap
    visual: Tensor
    clips: tuple[MultiViewClip, ...]
    branches: Tensor | None = None
    echo: TokenMap | None = None
    reserved: ReservedTokens | None = None
    step: int = 0

    @property
    def clip_ids(self) -> tuple[str, ...]:
        return tuple(clip.clip_id for clip in self.clips)

    @property
    def has_labels(self) -> bool:
        return bool((self.labels != IGNORE).any())

    def site_rows(self, layout: TokenMap) -> Tensor:
        """``B V N`` long: which row of the edit site ``visual_tokens`` each token of ``layout`` is."""
        row = self.visual.flatten().cumsum(0) - 1
        start = torch.arange(len(self.visual), device=row.device) * self.visual.shape[1]
        return row[layout.index + start.view(-1, 1, 1)]

    def to(self, device: torch.device | str) -> ClipBatch:
        return replace(
            self,
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            labels=self.labels.to(device),
            token_map=self.token_map.to(device),
            visual=self.visual.to(device),
            echo=None if self.echo is None else self.echo.to(device),
            reserved=None if self.reserved is None else self.reserved.to(device),
            branches=None if self.branches is None else self.branches.to(device),
        )
