"""What all fusions of semantic and generative tokens share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from spatialprior.priors.vega3d.projector import Projector

Init = Literal["identity", "released"]
"""``identity``: the output is the semantic tokens until the first step, where the form allows that (else it is
as ``released``; :attr:`Fusion.identity_at_attach` says which). ``released``: upstream's start."""

NORM_EPS = 1e-5


class Fusion(nn.Module, ABC):
    """Visual tokens of a batch, changed by a generative model's features (the notes on the method, section 3).

    Computes in the dtype of its weights and returns the dtype of the semantic tokens. Parameters have at least
    one dimension, since sharding refuses scalars.

    Args:
        channels: C of the generative features.
        width: D of the semantic tokens.

    Attributes:
        identity_at_attach: Whether the output equals the semantic tokens right after construction: exactly, in
            full precision (no TF32), for finite generative features.
        projector: P_gen.
    """

    identity_at_attach: bool = False

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.projector = Projector(channels, width)

    def forward(
        self, semantic: Tensor, generative: Tensor, groups: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Fuse.

        Args:
            semantic: ``T D``, the visual tokens of a batch, in any order.
            generative: ``T C``, the features at the places of these tokens.
            groups: ``T`` integers, which view of which clip a token belongs to. Only cross-attention reads it.
            positions: ``T 2``, centres ``(x, y)`` of the tokens' cells, shares of the view's width and height.
                Only cross-attention reads it, and needs it.

        Returns:
            ``T D``, in the dtype of ``semantic``.

        Raises:
            ValueError: Numbers of tokens differ, or ``positions`` is missing where it is needed.
        """
        if len(semantic) != len(generative):
            raise ValueError(
                f"{len(semantic)} semantic but {len(generative)} generative tokens; resample one to the other"
            )
        dtype = self.projector.expand.weight.dtype
        projected = self.projector(generative.to(dtype))
        return self.fuse(semantic.to(dtype), projected, groups, positions).to(semantic.dtype)

    @abstractmethod
    def fuse(
        self, semantic: Tensor, projected: Tensor, groups: Tensor, positions: Tensor | None
    ) -> Tensor:
        """:meth:`forward` with F_sem and F_gen, both ``T D``."""


def one_of(name: str, value: str, options: Iterable[str]) -> None:
    """Raise a one-line ``ValueError`` for a setting that is none of its options."""
    options = tuple(options)
    if value not in options:
        raise ValueError(f"fusion: {name}={value!r}; choose from: {', '.join(options)}")
