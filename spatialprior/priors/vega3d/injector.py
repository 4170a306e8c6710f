"""VEGA-3D as an injector: edits the visual tokens, and stays in the exported model.

Re-implementation of arXiv 2603.19235; where the paper and its released code differ, both are settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spatialprior.core.backbone import Backbone
from spatialprior.core.batch import ClipBatch
from spatialprior.core.cache import cache_root
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.injector import ExportMode, Needs, PriorInjector
from spatialprior.core.sites import VISUAL_TOKENS, Site
from spatialprior.features.align import align
from spatialprior.features.cache import FeatureCache
from spatialprior.features.cached import CachedEncoder
from spatialprior.features.choice import EncoderChoice
from spatialprior.features.maps import FeatureMaps
from spatialprior.priors.vega3d import sources
from spatialprior.priors.vega3d.config import FusionConfig

PROJECTION_SEED = 0x3D


@dataclass(frozen=True)
class TokenFeatures:
    """What is fused into the rows of the edit site of one batch.

    Attributes:
        rows: ``K`` long, rows of the site that have a feature, in ascending order.
        features: ``K C``; ``None`` where the visual tokens themselves are the source.
        groups: ``K`` long, the view each belongs to.
        positions: ``K 2`` float, its place ``(x, y)`` in its view, in [0, 1].
    """

    rows: Tensor
    features: Tensor | None
    groups: Tensor
    positions: Tensor


class Vega3d(PriorInjector):
    """Features of a frozen encoder, aligned by pixel coordinates and fused into the visual tokens."""

    export_mode = ExportMode.KEEP
    inference_settings = ("at_inference",)
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "zero_prior": {"at_inference": "zero"},
        "other_scene_prior": {"at_inference": "other_scene"},
    }
    local_settings = ("cache_gb", "cache_dir")
    chosen: ClassVar[dict[str, type]] = {"encoder": EncoderChoice}
    """Settings that hold one component, for whoever reads recipes."""

    @dataclass
    class Config:
        """What a recipe may set.

        Attributes:
            encoder: The frozen model, ``{kind, settings of that kind...}``.
            fusion: How features and visual tokens become one.
            source: What is fused; anything but ``encoder`` is a control of equal capacity.
            normalise: RMS norm of the features in front of their projector (the released spatial-reasoning
                branch); without it they go in as the encoder has them (the paper).
            at_inference: Put something else in the features' place in evaluation mode, to see whether the model
                uses them.
            lr_multiple: The fusion's learning rate as a multiple of the base rate.
            cache_gb: Room for kept features on this machine, GB; 0 keeps none. Runs that share the folder keep
                to the smallest of their bounds.
            cache_dir: Where; by default below ``$SPATIALPRIOR_CACHE``, or else ``~/.cache/spatialprior``.
        """

        encoder: EncoderChoice = field(
            default_factory=lambda: EncoderChoice.of({"kind": "wan_t2v"})
        )
        fusion: FusionConfig = field(default_factory=FusionConfig)
        source: sources.Source = "encoder"
        normalise: bool = False
        at_inference: sources.Substitute = "none"
        lr_multiple: float = 1.0
        cache_gb: float = 20.0
        cache_dir: str | None = None

        def __post_init__(self) -> None:
            self.encoder = EncoderChoice.of(self.encoder)
            if isinstance(self.fusion, dict):
                self.fusion = FusionConfig(**self.fusion)
            if self.cache_gb < 0 or self.lr_multiple < 0:
                raise ValueError("vega3d: cache_gb and lr_multiple must not be negative")
            if self.source == "own_vision" and self.at_inference != "none":
                raise ValueError(
                    f"vega3d: at_inference={self.at_inference} replaces an encoder's features, and "
                    "source=own_vision has none; leave inference_arms out (inference_arms={})"
                )

        def to_dict(self) -> dict[str, Any]:
            """In the shape in which recipes write it."""
            own = {name: getattr(self, name) for name in self.__dataclass_fields__}
            return {**own, "encoder": self.encoder.to_dict(), "fusion": asdict(self.fusion)}

    config: Config
    directions: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = config.encoder.build()
        folder = cache_root(config.cache_dir) / "features"
        cache = FeatureCache(folder, int(config.cache_gb * 1e9))
        self._features = CachedEncoder(self.encoder, cache)
        self._other_scene = sources.OtherScene()

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise ``ValueError`` for an encoder that cannot be had, without loading a weight."""
        if config.source == "encoder":
            config.encoder.check()

    @property
    def appends(self) -> bool:
        """Whether features become tokens of their own, behind the visual ones."""
        return self.config.fusion.kind == "sequence_concat"

    def provenance(self) -> dict[str, str]:
        return {"encoder": self.encoder.revision} if self.config.source == "encoder" else {}

    def frozen_modules(self) -> Iterable[nn.Module]:
        return (self.encoder.module,) if self.config.source == "encoder" else ()

    def run_frozen(self, images: Tensor) -> None:
        if self.config.source == "encoder":
            self.encoder(images)

    def needs(self, num_layers: int) -> Needs:
        return Needs(edits=(VISUAL_TOKENS,), echo=self.appends)

    def attach(self, backbone: Backbone) -> None:
        config, width, channels = self.config, backbone.hidden_size, self.encoder.channels
        self.norm: nn.Module = nn.RMSNorm(channels, eps=1e-6) if config.normalise else nn.Identity()
        self.fusion = config.fusion.build(channels, width)
        self.identity_at_attach = self.fusion.identity_at_attach
        if config.source == "own_vision":
            fixed = sources.projection(width, channels, PROJECTION_SEED)
            self.register_buffer("directions", fixed, persistent=False)

    def optim_groups(self, base_lr: float) -> Iterable[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": base_lr * self.config.lr_multiple}]

    # --- features of a batch --------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: ClipBatch) -> TokenFeatures:
        layout = batch.token_map
        features, seen = self._aligned(batch)
        substitute = "none" if self.training else self.config.at_inference
        if features is not None and len(batch.clips):
            if substitute == "zero":
                features = torch.zeros_like(features)
            elif substitute == "shuffled":
                features = sources.shuffled(features, seen, batch.clips)
            elif substitute == "other_scene":
                features, seen = self._other_scene(features, seen, batch.clips, layout.grid)
        target = batch.echo if self.appends else layout
        assert target is not None, "encoded without a second copy of the views"
        rows = batch.site_rows(target)[seen]
        order = rows.argsort()
        b, v, n = seen.nonzero()[order].unbind(-1)
        cols = layout.grid[b, v, 1].clamp(min=1)
        height = layout.grid[b, v, 0].clamp(min=1)
        place = torch.stack([(n % cols + 0.5) / cols, (n // cols + 0.5) / height], dim=-1)
        return TokenFeatures(
            rows=rows[order],
            features=None if features is None else features[b, v, n],
            groups=b * layout.num_views + v,
            positions=place.float(),
        )

    def _aligned(self, batch: ClipBatch) -> tuple[Tensor | None, Tensor]:
        """Features ``B V N C`` of every token and ``B V N`` bool, whether it has one."""
        layout, config = batch.token_map, self.config
        if config.source == "own_vision":
            return None, layout.valid
        if config.source == "noise":
            seed = config.encoder.settings.seed
            return sources.noise(batch, self.encoder.channels, seed), layout.valid
        self.encoder.to(layout.index.device)
        maps = [self._maps(clip) for clip in batch.clips]
        features, seen = align(maps, layout, self.encoder.channels)
        return features, seen & layout.valid

    def _maps(self, clip: MultiViewClip) -> list[FeatureMaps]:
        """One map for each view."""
        images, ids = clip.images, clip.frame_ids
        if not clip.num_views:
            return []
        if isinstance(images, Tensor):
            return self._features(images, ids).frames()
        if self.encoder.joint:
            raise ValueError(
                f"clip {clip.clip_id} has views of unlike sizes, which {self.config.encoder.kind} cannot take "
                "together; choose an encoder of single frames, such as wan_t2v"
            )
        return [self._features(image[None], (id_,)) for image, id_ in zip(images, ids, strict=True)]

    # --- the edit -------------------------------------------------------------------------

    def edit(self, site: Site, tokens: Tensor, context: TokenFeatures) -> Tensor:
        weight = next(self.fusion.parameters())
        semantic = tokens.index_select(0, context.rows).to(weight.dtype)
        features = context.features
        if features is None:
            features = semantic.detach() @ self.directions.to(semantic)
        generative = self.norm(features.to(semantic))
        fused = self.fusion(semantic, generative, context.groups, context.positions)
        # Tokens that the encoder did not see, or that lie in no grid, stay as they are.
        return tokens.index_copy(0, context.rows, fused.to(tokens.dtype))
