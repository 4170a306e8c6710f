"""The geometry expert as an injector: routes tokens of its own, and stays in the exported model.

G²VLM-style, re-implementation of arXiv 2511.21688; not verified against the official code or weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from spatialprior.core.backbone import Backbone, Twin
from spatialprior.core.batch import ClipBatch
from spatialprior.core.cache import cache_root
from spatialprior.core.injector import ExportMode, Needs, PriorInjector
from spatialprior.core.reserve import Reserve, ReservedTokens
from spatialprior.core.sites import FINAL_HIDDEN, RESERVED_TOKENS, Site, Taps
from spatialprior.core.terms import LossTerm
from spatialprior.features.cache import FeatureCache
from spatialprior.features.cached import CachedEncoder
from spatialprior.features.choice import EncoderChoice
from spatialprior.features.fit import fit_frames
from spatialprior.geometry.scene import ScenePrediction
from spatialprior.objectives.scene import scene_counts, scene_losses
from spatialprior.priors.geometry_expert.config import GeometryExpertConfig
from spatialprior.priors.geometry_expert.expert import (
    INIT_STD,
    FinalNorm,
    LayerExpert,
    plain_linear,
)
from spatialprior.priors.geometry_expert.heads.geometry_heads import GeometryHeads
from spatialprior.priors.geometry_expert.lora import LoraLayerExpert
from spatialprior.priors.geometry_expert.targets import SceneTruth, scene_truth

_GEOMETRY = ("depth", "intrinsics", "world_to_cam")
_UNREAD = ("q_proj", "q_norm", "o_proj", "post_attention_layernorm", "mlp", "attention_scale")


@dataclass(frozen=True)
class GeometryTokens:
    """What goes into a batch's reserved tokens, and what is to come out.

    Attributes:
        reserved: Where they are.
        features: ``T C`` of the encoder, in the order of the site; ``None`` while the encoder trains.
        pixels: The fitted views then, ``3 H W`` each.
        truths: Of each clip; ``None`` where it has no geometry, or nothing is scored.
    """

    reserved: ReservedTokens
    features: Tensor | None
    pixels: list[Tensor]
    truths: list[SceneTruth | None]


class GeometryExpert(PriorInjector):
    """Tokens of a frozen DINO, their own weights in every decoder layer, heads for points and cameras."""

    export_mode = ExportMode.KEEP
    local_settings = ("cache_gb", "cache_dir")
    prediction_settings: ClassVar[dict[str, Any]] = {"stage": "geometry"}
    identity_at_attach = False
    chosen: ClassVar[dict[str, type]] = {"encoder": EncoderChoice}
    Config = GeometryExpertConfig
    config: GeometryExpertConfig

    def __init__(self, config: GeometryExpertConfig) -> None:
        super().__init__(config)
        self.encoder = config.encoder.build()
        folder = cache_root(config.cache_dir) / "features"
        cache = FeatureCache(folder, int(config.cache_gb * 1e9))
        self._features = CachedEncoder(self.encoder, cache)
        self.scored = config.stage in ("geometry", "vg_ce")

    @classmethod
    def check(cls, config: GeometryExpertConfig) -> None:
        """Raise ``ValueError`` for an encoder that cannot be had, without loading a weight."""
        config.encoder.check()

    @property
    def patch(self) -> int:
        """Predicted pixels along a side of a token."""
        return self.encoder.multiple

    def provenance(self) -> dict[str, str]:
        return {"encoder": self.encoder.revision}

    def frozen_modules(self) -> Iterable[nn.Module]:
        return () if self.config.train_encoder else (self.encoder.module,)

    def run_frozen(self, images: Tensor) -> None:
        if not self.config.train_encoder:
            self.encoder(images)

    def needs(self, num_layers: int) -> Needs:
        grid = self.encoder.patch_grid
        return Needs(
            taps=(FINAL_HIDDEN,) if self.scored else (),
            edits=(RESERVED_TOKENS,),
            clip_fields=_GEOMETRY if self.scored else (),
            reserve=Reserve(
                grid=grid,
                box=grid.box,
                attention=self.config.attention,
                positions=self.config.positions,
                alone=self.config.stage == "geometry",
            ),
            frozen_backbone=self.config.stage == "geometry",
        )

    def attach(self, backbone: Backbone) -> None:
        config, outer = self.config.expert, backbone.hidden_size
        width = config.width if config.form == "narrow" else outer
        if width > outer:
            raise ValueError(f"expert.width={width}: this decoder is only {outer} wide")
        layers: list[nn.Module] = []
        for index in range(backbone.num_layers):
            parts = backbone.token_parts(index)
            head_dim = plain_linear(parts["q_proj"]).out_features // backbone.num_heads[0]
            if config.form == "lora":
                layers.append(LoraLayerExpert(parts, config, head_dim))
            else:
                layers.append(LayerExpert(parts, config, outer, head_dim))
        self.width, self.layers = width, nn.ModuleList(layers)
        self.norm = FinalNorm(backbone.final_norm(), outer, width)
        self.projector = nn.Linear(self.encoder.channels, width)
        nn.init.normal_(self.projector.weight, std=INIT_STD)
        nn.init.zeros_(self.projector.bias)
        self.heads = GeometryHeads(width, self.patch, self.config.heads)
        if self.config.train_encoder:
            self.vision = self.encoder.load()
        self._freeze()
        backbone.route([cast("Twin", layer) for layer in layers], cast("Twin", self.norm))
        self._unroute = backbone.unroute

    def _freeze(self) -> None:
        """Ask for gradients only where the stage trains."""
        self.requires_grad_(self.config.stage != "ce_only")
        if self.config.stage != "ce_ce":
            return
        self.heads.requires_grad_(False)
        self.norm.requires_grad_(False)
        if self.config.train_encoder:
            self.vision.requires_grad_(False)
        # Nothing but the heads reads what the last layer makes of geometry tokens.
        for name, parameter in self.layers[-1].named_parameters():
            if set(name.split(".")) & {*_UNREAD, "mlp_scale", "gate_proj", "up_proj", "down_proj"}:
                parameter.requires_grad_(False)

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def optim_groups(self, base_lr: float) -> Iterable[dict[str, Any]]:
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"params": params, "lr": base_lr * self.config.lr_multiple}] if params else []

    def detach(self) -> None:
        self._unroute()

    # --- tokens of a batch ----------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: ClipBatch) -> GeometryTokens:
        reserved = batch.reserved
        assert reserved is not None, "encoded without room for geometry tokens"
        device = reserved.patches.device
        self.encoder.to(device)
        features, pixels = None, []
        if self.config.train_encoder:
            pixels = [self._fitted(view, device) for clip in batch.clips for view in clip.images]
        else:
            maps = [
                values.flatten(1).T
                for clip in batch.clips
                for view in self._maps(clip.images, clip.frame_ids)
                for values in view
            ]
            empty = torch.zeros(0, self.encoder.channels, device=device)
            features = torch.cat([empty, *(tokens.to(device).float() for tokens in maps)])
        truths = [self._truth(batch, b) if self.scored else None for b in range(len(batch.clips))]
        return GeometryTokens(reserved, features, pixels, truths)

    def _maps(self, images: Tensor | tuple[Tensor, ...], ids: tuple[int, ...]) -> list[Tensor]:
        """``V C h w`` of views of one size, or ``1 C h w`` each."""
        if not len(images):
            return []
        if isinstance(images, Tensor):
            return [self._features(images, ids).values]
        return [
            self._features(image[None], (id_,)).values
            for image, id_ in zip(images, ids, strict=True)
        ]

    def _fitted(self, view: Tensor, device: torch.device) -> Tensor:
        settings = self.encoder.config
        pixels, _ = fit_frames(
            view[None].to(device), settings.size, settings.fit, self.encoder.multiple
        )
        return pixels[0]

    def _truth(self, batch: ClipBatch, b: int) -> SceneTruth | None:
        clip, reserved = batch.clips[b], batch.reserved
        assert reserved is not None
        if not clip.has_geometry or not clip.num_views:
            return None
        sizes = [(self.patch * r, self.patch * c) for r, c in self._grids(reserved, b)]
        boxes = [cast("Any", tuple(box)) for box in reserved.token_map.box[b].tolist()]
        return scene_truth(clip, sizes, boxes[: len(sizes)], reserved.patches.device)

    @staticmethod
    def _grids(reserved: ReservedTokens, b: int) -> list[tuple[int, int]]:
        return [(rows, cols) for rows, cols in reserved.token_map.grid[b].tolist() if rows]

    def edit(self, site: Site, tokens: Tensor, context: GeometryTokens) -> Tensor:
        features = context.features
        if features is None:
            maps = [
                self.encoder.encode_pixels(self.vision, view[None], [0]) for view in context.pixels
            ]
            features = torch.cat(
                [tokens[:0, :0].new_zeros(0, self.encoder.channels)]
                + [values[0].flatten(1).T for values in maps]
            )
        own = self.projector(features.to(self.projector.weight.dtype))
        return nn.functional.pad(own, (0, tokens.shape[-1] - self.width)).to(tokens.dtype)

    # --- what comes out -------------------------------------------------------------------

    def counts(self, context: GeometryTokens) -> dict[str, float]:
        counts = dict.fromkeys(self._terms(), 0.0) if self.scored else {}
        for truth in context.truths:
            if truth is not None:
                for name, count in scene_counts(
                    truth.valid, self.config.loss, **self._has()
                ).items():
                    counts[name] += count
        return counts

    def losses(self, taps: Taps, context: GeometryTokens) -> list[LossTerm]:
        if not self.scored:
            return []
        hidden = taps[FINAL_HIDDEN]
        nothing = 0 * hidden.sum().float()
        nothing = nothing + sum(0 * p.sum().float() for p in self.parameters() if p.requires_grad)
        sums = dict.fromkeys(self._terms(), nothing)
        counts = self.counts(context)
        for b, truth in enumerate(context.truths):
            if truth is None:
                continue
            points, poses, extra = self._decoded(hidden, context.reserved, b, training=True)
            found = scene_losses(
                points,
                poses,
                truth.points_cam,
                truth.valid,
                truth.cam_to_world,
                self.config.loss,
                points_global=extra.get("global_points"),
                confidence_logits=extra.get("confidence"),
            )
            for name, (total, _) in found.items():
                sums[name] = sums[name] + total
        weights = self.config.loss.weights()
        return [LossTerm(name, sums[name], counts[name], weights[name]) for name in sums]

    def _has(self) -> dict[str, bool]:
        heads = self.config.heads
        return {"points_global": heads.global_points, "confidence": heads.confidence}

    def _terms(self) -> list[str]:
        """Names of the loss terms."""
        return list(
            scene_counts([torch.zeros(1, 1, dtype=torch.bool)], self.config.loss, **self._has())
        )

    def _decoded(
        self, hidden: Tensor, reserved: ReservedTokens, b: int, *, training: bool
    ) -> tuple[list[Tensor], Tensor, dict[str, list[Tensor]]]:
        """Point maps, cameras and what further heads say of the views of clip ``b``."""
        layout, width = reserved.token_map, self.width
        grids = self._grids(reserved, b)
        views = [
            hidden[b, layout.index[b, v, : rows * cols], :width]
            for v, (rows, cols) in enumerate(grids)
        ]
        points: list[Tensor] = [hidden] * len(views)
        poses: list[Tensor] = [hidden] * len(views)
        extra: dict[str, list[Tensor]] = {}
        for grid in dict.fromkeys(grids):
            same = [v for v, own in enumerate(grids) if own == grid]
            tokens = torch.stack([views[v] for v in same])
            outputs = {"points": self.heads.points(tokens, grid)}
            outputs["poses"] = self.heads.camera(tokens, grid)
            if self.heads.global_points is not None and training and grid == grids[0]:
                first = views[0].expand_as(tokens)
                outputs["global_points"] = self.heads.global_points(tokens, first, grid)
            if self.heads.confidence is not None:
                outputs["confidence"] = self.heads.confidence(tokens, grid)
            for place, v in enumerate(same):
                points[v], poses[v] = outputs["points"][place], outputs["poses"][place]
                for name in ("global_points", "confidence"):
                    if name in outputs:
                        extra.setdefault(name, []).append(outputs[name][place])
        return points, torch.stack(poses), extra

    def predict(self, taps: Taps, context: GeometryTokens) -> list[ScenePrediction] | None:
        if FINAL_HIDDEN not in taps:
            return None
        scenes = []
        for b in range(len(context.truths)):
            if not self._grids(context.reserved, b):
                scenes.append(ScenePrediction((), taps[FINAL_HIDDEN].new_zeros(0, 4, 4)))
                continue
            points, poses, extra = self._decoded(
                taps[FINAL_HIDDEN], context.reserved, b, training=False
            )
            sure = extra.get("confidence")
            confidence = tuple(logits.sigmoid() for logits in sure) if sure else None
            scenes.append(ScenePrediction(tuple(points), poses, confidence))
        return scenes
