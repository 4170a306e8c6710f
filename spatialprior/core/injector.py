"""The contract of a spatial prior.

A prior *observes* the decoder (GASP), *edits* its visual tokens (VEGA-3D) or *routes* tokens through
twin weights (geometry expert). It never places a hook: it says which sites it wants, gets tensors,
and returns tensors. Only the backbone touches the model.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from spatialprior.core.batch import ClipBatch
from spatialprior.core.reserve import Reserve
from spatialprior.core.sites import Site, Taps
from spatialprior.core.terms import LossTerm

if TYPE_CHECKING:
    from spatialprior.core.backbone import Backbone
    from spatialprior.geometry.scene import ScenePrediction


class ExportMode(enum.Enum):
    """What becomes of a prior when the model is exported."""

    DISCARD = "discard"
    """Nothing of it remains: keys, parameter count and FLOPs return to stock (GASP)."""
    MERGE = "merge"
    """It folds into existing weights: keys and count return to stock."""
    KEEP = "keep"
    """Its tensors ship beside the checkpoint, and inference changes."""


@dataclass(frozen=True)
class Needs:
    """What a prior asks for, checked before any weight loads or any step runs.

    Attributes:
        taps: Sites to read.
        edits: Sites to change.
        clip_fields: Names of :class:`~spatialprior.core.clip.MultiViewClip` fields that must be present
            on clips the prior applies to, e.g. ``("depth", "intrinsics", "world_to_cam")``.
        echo: Give every view of a clip a second time, behind the views themselves: tokens for the prior to
            replace (:attr:`~spatialprior.core.batch.ClipBatch.echo`).
        reserve: Tokens of its own in front of the visual ones, which take the prior's path through the decoder
            (:meth:`~spatialprior.core.backbone.Backbone.route`). One prior a model may have this.
        reads_reserved: The prior reads the reserved tokens of another one.
        frozen_backbone: Train none of the backbone's weights.
    """

    taps: tuple[Site, ...] = ()
    edits: tuple[Site, ...] = ()
    clip_fields: tuple[str, ...] = field(default=())
    echo: bool = False
    reserve: Reserve | None = None
    reads_reserved: bool = False
    frozen_backbone: bool = False


class PriorInjector(nn.Module):
    """Base class of every prior, ours or a third party's.

    Life: ``__init__(config)`` -> ``attach(backbone)`` -> per step ``prepare``, ``edit``, ``losses`` ->
    ``detach()``. Subclasses define a dataclass ``Config`` (its fields are what recipes may set), build their
    modules in ``attach`` and override what they need of the rest.
    """

    Config: ClassVar[type]
    export_mode: ClassVar[ExportMode] = ExportMode.DISCARD
    inference_settings: ClassVar[tuple[str, ...]] = ()
    """Settings of a kept prior that may change once it is trained."""
    local_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that speak of this machine, such as a cache folder; an export does not record them."""
    ablations: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Of a kept prior: ``zero_prior``, ``other_scene_prior`` -> the :attr:`inference_settings` that do so."""
    prediction_settings: ClassVar[Mapping[str, Any] | None] = None
    """Settings under which a kept prior predicts geometry (:meth:`predict`); ``None``: it does not."""
    identity_at_attach: bool = True
    """Whether the model's outputs are unchanged right after ``attach`` (it may depend on the config)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise ``ValueError`` for what is wrong with ``config``, such as frozen weights that are not there.

        Called before any weight loads; loads none itself.
        """

    @classmethod
    def check_handover(cls, earlier: Any, later: Any) -> None:
        """Raise ``ValueError`` where a kept prior of ``earlier`` settings cannot go on with ``later`` ones.

        Called before any weight loads, for the phases of a run; by default all can.
        """

    def needs(self, num_layers: int) -> Needs:
        """Sites and clip fields this prior wants, given the decoder's depth."""
        raise NotImplementedError

    def attach(self, backbone: Backbone) -> None:
        """Build modules that depend on the backbone (sizes, initial weights). Called once."""

    def import_weights(self) -> None:
        """Put published weights, where the config names some, in the place of those that ``attach`` drew.

        Called where a training begins, after ``attach``. Not called where the prior's tensors come from an
        export, or all of them from a checkpoint.
        """

    def prepare(self, batch: ClipBatch) -> Any:
        """Targets and teacher features of a batch, without gradient; handed to ``edit`` and ``losses``."""
        return None

    def counts(self, context: Any) -> dict[str, float]:
        """Items that each loss term of a batch will sum over, known before the forward pass.

        A step's micro-batches (and ranks) are normalised by their common total, so it is needed up front.
        """
        return {}

    def edit(self, site: Site, tokens: Tensor, context: Any) -> Tensor:
        """Return changed ``tokens`` (same shape) of an edit site."""
        return tokens

    def losses(self, taps: Taps, context: Any) -> list[LossTerm]:
        """Loss terms of a batch. With nothing to score: count and sum 0, still connected to all parameters."""
        return []

    def predict(self, taps: Taps, context: Any) -> list[ScenePrediction] | None:
        """What the prior says of the geometry of every clip of a batch; ``None`` where it says nothing."""
        return None

    def optim_groups(self, base_lr: float) -> Iterable[dict[str, Any]]:
        """AdamW parameter groups (``params``, ``lr``, optionally ``weight_decay``)."""
        params = [p for p in self.parameters() if p.requires_grad]
        return [{"params": params, "lr": base_lr}] if params else []

    def blocks(self) -> list[nn.Module]:
        """Repeated modules, the units in which its weights are sharded; what is in none goes with the rest.

        Each is called as a module, once a pass: what gathers and drops its weights hangs on that call.
        """
        return []

    def provenance(self) -> dict[str, str]:
        """What a kept prior depends on beside its own tensors, such as the revision of frozen weights."""
        return {}

    def frozen_modules(self) -> Iterable[nn.Module]:
        """Models that this prior runs and that are none of its own modules."""
        return ()

    def run_frozen(self, images: Tensor) -> None:
        """Run those models once over ``V 3 H W`` uint8, nothing remembered: for measuring what they cost."""

    def detach(self) -> None:
        """Undo what ``attach`` did to the backbone. Modules owned by the prior need no undoing."""


class MissingClipFieldError(ValueError):
    """A prior needs a clip field that the data does not carry."""


def check_clip_fields(prior_name: str, needs: Needs, batch: ClipBatch) -> None:
    """Raise :class:`MissingClipFieldError` naming the prior, the field and the first clip that lacks it."""
    for clip in batch.clips:
        missing = [name for name in needs.clip_fields if getattr(clip, name) is None]
        if missing:
            raise MissingClipFieldError(
                f"prior {prior_name!r} needs {', '.join(missing)}, which clip {clip.clip_id} does not have; "
                "choose data with geometry (data=rooms, data=posed_rgbd) or leave the prior out (prior=[])"
            )
