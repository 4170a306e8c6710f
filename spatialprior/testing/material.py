"""What the conformance suite runs on: a tiny backbone, clips of a plane, a second prior."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from spatialprior.backbones.hf import HFBackbone
from spatialprior.backbones.nano import twin
from spatialprior.core.backbone import Backbone
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.core.injector import Needs, PriorInjector
from spatialprior.core.sites import Taps, residual_in, residual_out
from spatialprior.core.terms import LossTerm
from spatialprior.registry import BACKBONES


@functools.cache
def _processor(kind: str) -> Any:
    return twin.processor(kind)


def tiny_backbone(seed: int = 0, kind: str = "qwen2_5_vl", **settings: Any) -> HFBackbone:
    """An untrained nano backbone in memory (4 layers, width 64); the same weights for the same seed.

    Args:
        seed: Of the weights.
        kind: Family, as recipes write it.
        settings: Of its ``Config``, e.g. ``frames="video"``.
    """
    cls = cast("type[HFBackbone]", BACKBONES.get(kind))
    processor = _processor(kind)
    return cls(twin.model(kind, processor.tokenizer, seed), processor, cls.Config(**settings))


def plane_clip(
    clip_id: str = "plane",
    *,
    num_views: int = 3,
    size: tuple[int, int] = (64, 64),
    questions: Sequence[tuple[str, str]] = (("Is the wall far?", "yes"),),
) -> MultiViewClip:
    """Views of one textured, slanted plane from a camera that moves sideways and turns; geometry is exact.

    Args:
        clip_id: Of the clip; also its ``source_id``.
        num_views: Views.
        size: ``(height, width)``, pixels.
        questions: ``(question, answer)`` pairs.
    """
    height, width = size
    focal = 0.9 * max(size)
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    # The plane n.X = d of the world, metres.
    normal = torch.nn.functional.normalize(torch.tensor([0.4, -0.2, 1.0]), dim=0)
    distance = 3.0
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ intrinsics.inverse().T
    images, depths, poses = [], [], []
    for view in range(num_views):
        angle = torch.tensor(0.08 * (view - num_views / 2))
        turn = torch.tensor(
            [[angle.cos(), 0, -angle.sin()], [0, 1, 0], [angle.sin(), 0, angle.cos()]]
        )
        center = torch.tensor([0.35 * view, 0.05 * view, 0.0])
        directions = rays @ turn  # camera to world is the transpose of ``turn``
        depth = (distance - normal @ center) / (directions @ normal)
        points = center + depth.unsqueeze(-1) * directions
        images.append(_texture(points))
        depths.append(depth)
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, -turn @ center
        poses.append(pose)
    return MultiViewClip(
        clip_id=clip_id,
        source_id=clip_id,
        images=torch.stack(images),
        frame_ids=tuple(range(num_views)),
        intrinsics=intrinsics.expand(num_views, 3, 3),
        world_to_cam=torch.stack(poses),
        depth=torch.stack(depths),
        depth_valid=torch.ones(num_views, height, width, dtype=torch.bool),
        questions=tuple(Question("test", text, answer) for text, answer in questions),
    )


def _texture(points_world: Tensor) -> Tensor:
    """A colour of every point (``H W 3`` to ``3 H W`` uint8): waves of many directions and lengths."""
    generator = torch.Generator().manual_seed(7)
    waves = torch.randn(3, 12, 3, generator=generator) * torch.linspace(1.5, 9.0, 12)[:, None]
    phases = torch.rand(12, generator=generator) * 2 * math.pi
    value = torch.sin(torch.einsum("hwk,cnk->chwn", points_world, waves) + phases).sum(-1)
    return (127.5 + 40 * value).clamp(0, 255).to(torch.uint8)


class DummyObserver(PriorInjector):
    """Taps the first and the last residual stream, and adds one term. Something to combine with."""

    @dataclasses.dataclass
    class Config:
        """What a recipe may set.

        Attributes:
            weight: Factor of the term in the total.
        """

        weight: float = 0.1

    def needs(self, num_layers: int) -> Needs:
        return Needs(taps=(residual_in(0), residual_out(num_layers - 1)))

    def attach(self, backbone: Backbone) -> None:
        self.sites = self.needs(backbone.num_layers).taps
        self.scale = nn.Parameter(torch.ones(backbone.hidden_size))

    def prepare(self, batch: ClipBatch) -> Any:
        return batch.token_map

    def counts(self, context: Any) -> dict[str, float]:
        return {"energy": float(context.valid.sum() * len(self.sites))}

    def losses(self, taps: Taps, context: Any) -> list[LossTerm]:
        sums = [(context.gather(taps[site]) * self.scale).square().mean(-1) for site in self.sites]
        total = torch.stack([part.sum() for part in sums]).sum()
        return [LossTerm("energy", total, self.counts(context)["energy"], self.config.weight)]
