"""What a recipe may set on the geometry expert."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from spatialprior.core.reserve import Attention, FramePositions
from spatialprior.features.choice import EncoderChoice
from spatialprior.objectives.scene_weights import SceneLossConfig
from spatialprior.priors.geometry_expert.expert import ExpertConfig
from spatialprior.priors.geometry_expert.heads.config import HeadsConfig

Stage = Literal["geometry", "ce_only", "ce_ce", "vg_ce"]
"""What trains, and by what. Freezing is real: what does not train asks for no gradient.

``geometry``: the expert and its heads, by the geometry losses; the backbone is frozen and sees no visual
    tokens.
``ce_only``: the backbone, by the answers (the paper's G²VLM). ``ce_ce``: the expert too, by the answers
(G²VLM-SR). ``vg_ce``: everything, by the sum of both losses.
"""


@dataclass
class GeometryExpertConfig:
    """What a recipe may set.

    Attributes:
        stage: See :data:`Stage`.
        encoder: The model whose patches become geometry tokens, ``{kind, settings of that kind...}``.
        train_encoder: Train the encoder in the stages that train the heads; its features are then never kept,
            and its weights ship with the expert's.
        expert: The second set of weights.
        heads: Sizes of the heads.
        loss: Weights of the geometry losses.
        attention: Who sees whom among the geometry tokens (``mixed`` is drawn for each clip and step).
        positions: ``shared``: every view at the same rotary positions, so that their order cannot matter;
            ``sequential``: one behind the other, as released.
        at_inference: ``zero`` puts zeros in the place of the encoder's patches in evaluation mode, to see
            whether the model uses them.
        lr_multiple: The learning rate as a multiple of the base rate.
        cache_gb, cache_dir: Room for kept features on this machine, as for VEGA-3D.
        start_from: Folder or hub id of the published G²VLM checkpoint, whose expert and heads training begins
            with; ``None``: drawn anew. An export holds what came of them, and does not need it.
        start_revision: Commit of that hub id, or ``None``.
    """

    stage: Stage = "geometry"
    encoder: EncoderChoice = field(default_factory=lambda: EncoderChoice.of({"kind": "dinov2_reg"}))
    train_encoder: bool = False
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    loss: SceneLossConfig = field(default_factory=SceneLossConfig)
    attention: Attention = "global"
    positions: FramePositions = "shared"
    at_inference: Literal["none", "zero"] = "none"
    lr_multiple: float = 1.0
    cache_gb: float = 20.0
    cache_dir: str | None = None
    start_from: str | None = None
    start_revision: str | None = None

    def __post_init__(self) -> None:
        self.encoder = EncoderChoice.of(self.encoder)
        for name, cls in (
            ("expert", ExpertConfig),
            ("heads", HeadsConfig),
            ("loss", SceneLossConfig),
        ):
            if isinstance(value := getattr(self, name), dict):
                setattr(self, name, cls(**value))
        if self.cache_gb < 0 or self.lr_multiple < 0:
            raise ValueError("geometry_expert: cache_gb and lr_multiple must not be negative")
        if self.start_revision is not None and self.start_from is None:
            raise ValueError(
                f"start_revision={self.start_revision} is of start_from, which is not set"
            )

    def to_dict(self) -> dict[str, Any]:
        """In the shape in which recipes write it."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        parts = {name: asdict(own[name]) for name in ("expert", "heads", "loss")}
        return {**own, "encoder": self.encoder.to_dict(), **parts}
