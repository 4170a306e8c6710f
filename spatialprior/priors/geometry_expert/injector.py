"""The geometry expert as an injector: routes tokens of its own, and stays in the exported model.

G²VLM-style, re-implementation of arXiv 2511.21688; not verified against the official code or weights.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spatialprior.core.backbone import Backbone, Twin
from spatialprior.core.batch import ClipBatch
from spatialprior.core.cache import cache_root
from spatialprior.core.clip import MultiViewClip
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
    LINEAR_PARTS,
    FinalNorm,
    LayerExpert,
    plain_linear,
)
from spatialprior.priors.geometry_expert.heads.geometry_heads import GeometryHeads
from spatialprior.priors.geometry_expert.lora import LoraLayerExpert
from spatialprior.priors.geometry_expert.readout import Readout, read_out, view_grids
from spatialprior.priors.geometry_expert.start import check_start
from spatialprior.priors.geometry_expert.targets import SceneTruth, scene_truth
from spatialprior.priors.geometry_expert.upstream import open_upstream, read_upstream

log = logging.getLogger(__name__)

_GEOMETRY = ("depth", "intrinsics", "world_to_cam")
_UNREAD = ("q_proj", "q_norm", "o_proj", "post_attention_layernorm", "mlp", "attention_scale")


@dataclass(frozen=True)
class GeometryTokens:
    """What goes into a batch's reserved tokens, and what is to come out.

    Attributes:
        reserved: Where they are.
        features: ``T C`` of the encoder, in the order of the site; ``None`` while the encoder trains.
        pixels: The fitted views then, ``3 H W`` each.
        truths: Clip of the batch -> its true geometry, where that is known and scored.
    """

    reserved: ReservedTokens
    features: Tensor | None
    pixels: list[Tensor]
    truths: dict[int, SceneTruth]


class GeometryExpert(PriorInjector):
    """Tokens of a frozen DINO, their own weights in every decoder layer, heads for points and cameras."""

    export_mode = ExportMode.KEEP
    inference_settings = ("at_inference",)
    ablations: ClassVar[dict[str, dict[str, Any]]] = {"zero_prior": {"at_inference": "zero"}}
    local_settings = ("cache_gb", "cache_dir", "start_from", "start_revision")
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
        """Raise ``ValueError`` for weights that cannot be had, or cannot fit, without loading one."""
        config.encoder.check()
        settings = config.encoder.settings
        if settings.fit == "crop":
            raise ValueError(
                "encoder.fit=crop leaves the borders of a view without geometry; use aspect or stretch"
            )
        if config.train_encoder and settings.pool is not None:
            raise ValueError(
                "encoder.pool does not go with train_encoder=true; set one of them back"
            )
        check_start(config)

    @classmethod
    def check_handover(cls, earlier: GeometryExpertConfig, later: GeometryExpertConfig) -> None:
        """Raise ``ValueError`` where a later phase would have other tensors."""
        for name in ("expert", "heads", "train_encoder"):
            before, after = getattr(earlier, name), getattr(later, name)
            if before != after:
                raise ValueError(
                    f"{name} must be the same in all phases, for its weights to be handed over; it is "
                    f"{before}, then {after}"
                )

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
                _refuse_adapters(parts)
                layers.append(LoraLayerExpert(parts, config, head_dim))
            else:
                layers.append(LayerExpert(parts, config, outer, head_dim))
        self.width, self.layers = width, nn.ModuleList(layers)
        copied = config.form == "lora" or config.init == "copy"
        self.norm = FinalNorm(backbone.final_norm(), outer, width, copy=copied)
        self.projector = nn.Linear(self.encoder.channels, width)
        nn.init.normal_(self.projector.weight, std=INIT_STD)
        nn.init.zeros_(self.projector.bias)
        self.heads = GeometryHeads(width, self.patch, self.config.heads)
        if self.config.train_encoder:
            self.vision = self.encoder.load()
        self._freeze()
        backbone.route([cast("Twin", layer) for layer in layers], cast("Twin", self.norm))
        self._unroute = backbone.unroute

    @torch.no_grad()
    def import_weights(self) -> None:
        if self.config.start_from is None:
            return
        own = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("vision.")  # the encoder's, which come with it
        }
        folder = open_upstream(self.config.start_from, self.config.start_revision)
        found = read_upstream(folder, {name: tensor.shape for name, tensor in own.items()})
        for name, tensor in found.items():
            own[name].copy_(tensor)
        drawn = len(own) - len(found)
        log.warning(
            "geometry_expert: %d tensors from %s%s. That checkpoint's language side normalises its queries and "
            "keys, and a stock backbone does not: what the expert sees of markers and prompt differs, so "
            "verify its geometry again",
            len(found),
            self.config.start_from,
            f", {drawn} drawn (it has no such head)" if drawn else "",
        )

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
        # A layer's twin is called once for each part, so the parts are what is gathered. Low-rank updates are
        # small and go with the rest, as norms and scales do.
        found: list[nn.Module] = []
        for layer in self.layers if self.config.expert.form != "lora" else ():
            found += [layer.get_submodule(name) for name in LINEAR_PARTS]
        return found

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
            tokens = [
                maps.flatten(2).transpose(1, 2).flatten(0, 1).to(device, torch.float32)
                for clip in batch.clips
                for maps in self._maps(clip)
            ]
            features = torch.cat([torch.zeros(0, self.encoder.channels, device=device), *tokens])
        truths = {}
        for b, clip in enumerate(batch.clips):
            if self.scored and clip.has_geometry and clip.num_views:
                sizes = [(self.patch * r, self.patch * c) for r, c in view_grids(reserved, b)]
                boxes = [self.encoder.patch_grid.box(size) for size in clip.image_sizes]
                truths[b] = scene_truth(clip, sizes, boxes, device)
        return GeometryTokens(reserved, features, pixels, truths)

    def _maps(self, clip: MultiViewClip) -> list[Tensor]:
        """``V C h w`` of views of one size, or ``1 C h w`` each."""
        images, ids = clip.images, clip.frame_ids
        if not clip.num_views:
            return []
        if isinstance(images, Tensor):
            return [self._features(images, ids).values]
        return [
            self._features(image[None], (id_,)).values
            for image, id_ in zip(images, ids, strict=True)
        ]

    def _fitted(self, view: Tensor, device: torch.device) -> Tensor:
        settings = self.encoder.config
        size = settings.size[0], settings.size[1]
        return fit_frames(view[None].to(device), size, settings.fit, self.patch)[0][0]

    def edit(self, site: Site, tokens: Tensor, context: GeometryTokens) -> Tensor:
        features = context.features
        if features is None:
            features = self._trained_features(context.pixels, tokens)
        if not self.training and self.config.at_inference == "zero":
            features = torch.zeros_like(features)
        own = self.projector(features.to(self.projector.weight.dtype))
        return F.pad(own, (0, tokens.shape[-1] - self.width)).to(tokens.dtype)

    def _trained_features(self, pixels: list[Tensor], like: Tensor) -> Tensor:
        """``T C``: the views through the encoder, those of one size together, in their own order."""
        groups: dict[torch.Size, list[int]] = defaultdict(list)
        for place, view in enumerate(pixels):
            groups[view.shape].append(place)
        found: dict[int, Tensor] = {}
        for places in groups.values():
            chosen = torch.stack([pixels[place] for place in places])
            maps = self.encoder.encode_pixels(self.vision, chosen, [0] * len(places))
            found |= dict(zip(places, maps.flatten(2).transpose(1, 2), strict=True))
        nothing = like.new_zeros(0, self.encoder.channels)
        return torch.cat([nothing, *(found[place] for place in range(len(pixels)))])

    # --- what comes out -------------------------------------------------------------------

    def counts(self, context: GeometryTokens) -> dict[str, float]:
        if not self.scored:
            return {}
        counts = dict.fromkeys(self._counts([]), 0.0)
        for truth in context.truths.values():
            for name, count in self._counts(truth.valid).items():
                counts[name] += count
        return counts

    def _counts(self, valid: list[Tensor]) -> dict[str, float]:
        heads = self.config.heads
        same = len({mask.shape for mask in valid}) <= 1
        counts = scene_counts(
            valid,
            self.config.loss,
            points_global=heads.global_points,
            confidence=heads.confidence,
        )
        return counts if same else counts | ({"global_points": 0.0} if heads.global_points else {})

    def losses(self, taps: Taps, context: GeometryTokens) -> list[LossTerm]:
        if not self.scored:
            return []
        hidden = taps[FINAL_HIDDEN]
        # What no clip of this batch reaches still takes part, for processes in step with each other.
        # The layers' twins, norm and projector are called all the same, with no token.
        nothing = hidden.flatten(0, 1)[:0].sum().float()
        unmet = [self.heads, self.vision] if self.config.train_encoder else [self.heads]
        for parameter in (p for part in unmet for p in part.parameters()):
            nothing = nothing + parameter.flatten()[:0].sum().float()
        counts = self.counts(context)
        sums = dict.fromkeys(counts, nothing)
        found = self._read(hidden, context, list(context.truths), with_global=True)
        for b, truth in context.truths.items():
            out = found[b]
            losses = scene_losses(
                out.points_cam,
                out.cam_to_world,
                truth.points_cam,
                truth.valid,
                truth.cam_to_world,
                self.config.loss,
                points_global=out.points_global,
                confidence_logits=out.confidence_logits,
            )
            for name, (total, _) in losses.items():
                sums[name] = sums[name] + total
        weights = self.config.loss.weights()
        return [LossTerm(name, sums[name], counts[name], weights[name]) for name in sums]

    def predict(self, taps: Taps, context: GeometryTokens) -> list[ScenePrediction] | None:
        hidden = taps.get(FINAL_HIDDEN)
        if hidden is None:
            return None
        clips = range(len(context.reserved.view))
        seen = [b for b in clips if view_grids(context.reserved, b)]
        found = self._read(hidden, context, seen, with_global=False)
        nothing = ScenePrediction((), hidden.new_zeros(0, 4, 4))
        return [found[b].prediction() if b in found else nothing for b in clips]

    def _read(
        self, hidden: Tensor, context: GeometryTokens, clips: list[int], *, with_global: bool
    ) -> dict[int, Readout]:
        # A backbone may be in half precision; the heads are not.
        own = hidden[..., : self.width].to(self.projector.weight.dtype)
        return read_out(self.heads, own, context.reserved, clips, with_global=with_global)


def _refuse_adapters(parts: Mapping[str, nn.Module]) -> None:
    """Raise ``ValueError`` where an export would merge adapters into weights that the expert shares."""
    if any(hasattr(module, "base_layer") for part in parts.values() for module in part.modules()):
        raise ValueError(
            "expert.form=lora shares the backbone's weights, into which the export merges backbone.lora: "
            "set expert.form=full or narrow, or leave backbone.lora out"
        )
