"""Transformer decoders over the patches of one image (``g2vlm.md`` section 2): every head has its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spatialprior.priors.geometry_expert.heads.config import check_heads
from spatialprior.priors.geometry_expert.heads.rope2d import Angles, grid_angles, rotate

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Softmax attention with 2D rotary positions; biases, no norm of queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, asking: Tensor, answering: Tensor, angles: Angles) -> Tensor:
        """``N P D`` ask, ``N P D`` of the same grid answer; an image sees its own row of the batch only."""
        query, key, value = (
            module(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for module, states in (
                (self.query, asking),
                (self.key, answering),
                (self.value, answering),
            )
        )
        seen = F.scaled_dot_product_attention(rotate(query, angles), rotate(key, angles), value)
        mixed: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return mixed


class Mlp(nn.Module):
    """Two maps with a GELU between them."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, ratio * width)
        self.contract = nn.Linear(ratio * width, width)

    def forward(self, states: Tensor) -> Tensor:
        mapped: Tensor = self.contract(F.gelu(self.expand(states)))
        return mapped


class Block(nn.Module):
    """``x + Attention(LN x)``, then ``x + MLP(LN x)``; with ``context`` a cross-attention between the two.

    Args:
        width: Channels.
        heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP, in widths.
        context: Whether the block also attends to another image's states, which it normalises itself.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, context: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads)
        if context:
            self.cross_norm = nn.LayerNorm(width, eps=NORM_EPS)
            self.context_norm = nn.LayerNorm(width, eps=NORM_EPS)
            self.cross = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x: Tensor, angles: Angles, context: Tensor | None = None) -> Tensor:
        """``N P D`` to ``N P D``; ``context`` is ``N P D`` for a block that was made with one."""
        own = self.attention_norm(x)
        x = x + self.attention(own, own, angles)
        if context is not None:
            x = x + self.cross(self.cross_norm(x), self.context_norm(context), angles)
        x = x + self.mlp(self.mlp_norm(x))
        return x


class PatchDecoder(nn.Module):
    """Maps the tokens of each image to features, never looking at another image of the batch.

    The map into the decoder is there at equal widths too: π³'s decoders, which G²VLM takes over, have it by
    default, and a published checkpoint's weight needs a place.

    Args:
        width_in: Channels of the tokens.
        width: Channels inside.
        width_out: Channels of the features.
        blocks: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden channels of an MLP, in widths.
        context: Whether every block also attends to the states of a second image (the first view).

    Raises:
        ValueError: ``heads`` does not divide ``width`` into multiples of 4.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        width_out: int,
        blocks: int = 5,
        heads: int = 16,
        mlp_ratio: int = 4,
        context: bool = False,
    ) -> None:
        check_heads(width, heads)
        super().__init__()
        self.head_channels = width // heads
        self.project = nn.Linear(width_in, width)
        self.project_context = nn.Linear(width_in, width) if context else None
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, context=context) for _ in range(blocks)
        )
        self.out = nn.Linear(width, width_out)

    def forward(self, tokens: Tensor, grid: tuple[int, int], first: Tensor | None = None) -> Tensor:
        """``N P width_in`` to ``N P width_out``.

        Args:
            tokens: Patches of N images, each row by row.
            grid: ``(rows, cols)``, with P = rows * cols.
            first: ``N P width_in``, for every image the tokens of its clip's first view; with ``context`` only.

        Raises:
            ValueError: The tokens do not fill the grid, or ``first`` is given without ``context`` or lacks.
        """
        rows, cols = grid
        if tokens.shape[1] != rows * cols:
            raise ValueError(
                f"geometry heads: {tokens.shape[1]} tokens an image do not fill a grid of "
                f"{rows} x {cols} patches"
            )
        if (first is None) != (self.project_context is None):
            has = "takes no" if self.project_context is None else "needs the"
            raise ValueError(f"geometry heads: this decoder {has} tokens of the first view")
        if first is not None and first.shape != tokens.shape:
            raise ValueError(
                f"geometry heads: first view's tokens are {tuple(first.shape)}, "
                f"the images' {tuple(tokens.shape)}; give every image its own copy"
            )
        angles = grid_angles(grid, self.head_channels, tokens.device)
        context = None
        if first is not None and self.project_context is not None:
            context = self.project_context(first)
        x = self.project(tokens)
        for block in self.blocks:
            x = block(x, angles, context)
        features: Tensor = self.out(x)
        return features
