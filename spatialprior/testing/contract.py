"""What every injector must do, as a base class for pytest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spatialprior.backbones.hf import HFBackbone
from spatialprior.core.backbone import Checkpointing
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.injector import (
    ExportMode,
    MissingClipFieldError,
    PriorInjector,
    check_clip_fields,
)
from spatialprior.core.terms import LossTerm, total_loss
from spatialprior.model import SpatialModel
from spatialprior.testing.material import DummyObserver, plane_clip, tiny_backbone

Gradients = dict[str, Tensor | None]


class InjectorContract:
    """Subclass it in a test file, name it ``Test...``, and set ``injector_class``.

    Attributes:
        injector_class: The injector under test.
        config_kwargs: Settings for its ``Config``; the rest keep their defaults.
        backbone_kind: Family of the tiny backbone that it is tried on.
        backbone_settings: Settings of that backbone's ``Config``.
    """

    injector_class: ClassVar[type[PriorInjector]]
    config_kwargs: ClassVar[dict[str, Any]] = {}
    backbone_kind: ClassVar[str] = "qwen2_5_vl"
    backbone_settings: ClassVar[dict[str, Any]] = {}

    # What a subclass may replace, where its prior wants other material.

    def clips(self) -> list[MultiViewClip]:
        """Clips that the prior applies to; by default with unequal numbers of views."""
        return [plane_clip("plane-a", num_views=3), plane_clip("plane-b", num_views=2)]

    def unscorable(self, clip: MultiViewClip) -> MultiViewClip:
        """``clip`` with every needed field present and nothing for this prior to score."""
        assert clip.depth_valid is not None
        return dataclasses.replace(clip, depth_valid=torch.zeros_like(clip.depth_valid))

    def companions(self) -> dict[str, PriorInjector]:
        """Other priors that stand beside the one under test, by name; none by default."""
        return {}

    # Parts.

    def backbone(self) -> HFBackbone:
        """A tiny backbone of the family, its weights the same every time."""
        return tiny_backbone(kind=self.backbone_kind, **self.backbone_settings)

    def make(self) -> PriorInjector:
        """The injector under test, not yet attached, its weights the same every time."""
        torch.manual_seed(1)
        return self.injector_class(self.injector_class.Config(**self.config_kwargs))

    def model(self, **others: PriorInjector) -> SpatialModel:
        """The prior under test on a tiny backbone, in training mode, with its companions and others."""
        torch.manual_seed(2)
        priors = {"prior": self.make(), **self.companions(), **others}
        return SpatialModel(self.backbone(), priors).train()

    def batch(self, model: SpatialModel, clips: Sequence[MultiViewClip] | None = None) -> ClipBatch:
        return model.backbone.encoder()(self.clips() if clips is None else clips)

    # Tests.

    def test_config_is_a_dataclass_with_defaults(self) -> None:
        config = self.injector_class.Config
        assert dataclasses.is_dataclass(config), "Config must be a dataclass"
        required = [
            field.name
            for field in dataclasses.fields(config)
            if field.init and field.default is field.default_factory is dataclasses.MISSING
        ]
        assert not required, f"a recipe need not name every setting: no default for {required}"

    def test_identity_at_attach(self) -> None:
        model = self.model()
        if not model.injectors["prior"].identity_at_attach:
            return
        batch = self.batch(model)
        stock = _logits(SpatialModel(self.backbone(), {}), batch)
        if _edited(model):  # by companions
            stock = _logits(model, batch, without="prior")
        assert torch.equal(_logits(model, batch), stock), (
            "identity_at_attach is declared, but attaching changes the logits"
        )

    def test_detach_restores_bits_and_keys(self) -> None:
        stock = self.backbone()
        model = self.model()
        batch = self.batch(model)
        _shake(model.injectors["prior"])
        model.detach()
        _same_tensors(model.backbone.state_dict(), stock.state_dict(), "backbone after detach")
        assert not dict(model.priors), "detach must leave no prior behind"
        assert torch.equal(_logits(model, batch), _logits(SpatialModel(stock, {}), batch)), (
            "the logits after detach differ from stock"
        )

    def test_gradient_reaches_prior_and_backbone(self) -> None:
        model = self.model()
        batch = self.batch(model)
        prior, needs = model.injectors["prior"], model.needs["prior"]
        grads = _gradients(model, batch)
        own = {name: grads[f"priors.prior.{name}"] for name, _ in _trainable(prior)}
        missing = [name for name, grad in own.items() if grad is None]
        assert not missing, f"no gradient reaches {missing}"
        assert not own or any(bool(grad.any()) for grad in own.values() if grad is not None), (
            "the gradient of all the prior's parameters is zero"
        )
        if not needs.taps:
            return
        context = prior.prepare(batch)
        output = model.backbone(batch, tap_sites=needs.taps)
        taps = {site: output.taps[site] for site in needs.taps}
        sums = [term.weight * term.sum for term in prior.losses(taps, context) if term.weight]
        reached = torch.autograd.grad(
            torch.stack(sums).sum(), list(taps.values()), allow_unused=True
        )
        dry = [site for site, g in zip(taps, reached, strict=True) if g is None or not g.any()]
        assert not dry, f"the prior taps {dry}, but its losses send no gradient there"

    def test_gradient_checkpointing_changes_nothing(self) -> None:
        wanted: tuple[Tensor, Gradients] | None = None
        kinds: tuple[Checkpointing, ...] = ("none", "nonreentrant", "reentrant")
        for kind in kinds:
            model = self.model()
            model.backbone.set_gradient_checkpointing(kind)
            batch = self.batch(model)
            loss, grads = _loss(model, batch), _gradients(model, batch)
            if wanted is None:
                wanted = loss, grads
                continue
            assert torch.allclose(loss, wanted[0]), f"{kind} checkpointing changes the loss"
            # Some gradients are zero but for rounding (a key's bias moves no softmax).
            rounding = 1e-7 * max(float(g.abs().max()) for g in grads.values() if g is not None)
            for name, expected in wanted[1].items():
                grad = grads[name]
                assert (grad is None) == (expected is None), f"{kind} checkpointing loses {name}"
                assert grad is None or expected is None or _close(grad, expected, rounding), (
                    f"{kind} checkpointing changes the gradient of {name}"
                )

    def test_state_dict_round_trip(self) -> None:
        model, other = self.model(), self.model()
        batch = self.batch(model)
        _shake(model.injectors["prior"])
        saved = {k: v.clone() for k, v in model.injectors["prior"].state_dict().items()}
        other.injectors["prior"].load_state_dict(saved, strict=True)
        _same_terms(_terms(other, batch), _terms(model, batch), "after loading a state dict")
        assert torch.equal(_logits(other, batch), _logits(model, batch)), (
            "the logits after loading a state dict differ"
        )

    def test_counts_equal_the_terms_counts(self) -> None:
        model = self.model()
        for clips in (self.clips(), [self.unscorable(clip) for clip in self.clips()]):
            batch = self.batch(model, clips)
            torch.manual_seed(3)
            context = model.prepare(batch)
            told = model.counts(batch, context)
            found = {term.name: term.count for term in model(batch, context)}
            told = {name: n for name, n in told.items() if n or name in found}
            assert told == found, f"counts() says {told}, the loss terms say {found}"

    def test_optim_groups_hold_every_parameter_once(self) -> None:
        prior = self.model().injectors["prior"]
        groups = list(prior.optim_groups(0.1))
        held = [id(p) for group in groups for p in group["params"]]
        assert len(held) == len(set(held)), "a parameter is in two groups"
        missing = [name for name, p in _trainable(prior) if id(p) not in set(held)]
        assert not missing, f"no optimiser group holds {missing}"
        assert all(group["lr"] >= 0 for group in groups), "a group has no learning rate"

    def test_combines_with_an_observer_in_any_order(self) -> None:
        alone = self.model()
        batch = self.batch(alone)
        wanted = _terms(alone, batch)
        dummy = SpatialModel(self.backbone(), {"dummy": DummyObserver(DummyObserver.Config())})
        torch.manual_seed(2)
        backbone = self.backbone()
        first = DummyObserver(DummyObserver.Config())
        both = (
            self.model(dummy=DummyObserver(DummyObserver.Config())),
            SpatialModel(
                backbone, {"dummy": first, "prior": self.make(), **self.companions()}
            ).train(),
        )
        for model in both:
            together = _terms(model, batch)
            assert together.keys() == wanted.keys() | {"dummy/energy"}, "a term is lost or renamed"
            _same_terms({k: together[k] for k in wanted}, wanted, "beside another prior")
            if not alone.needs["prior"].edits and not _edited(alone):
                theirs = _terms(dummy, batch)["dummy/energy"]
                _same_terms({"": together["dummy/energy"]}, {"": theirs}, "of the other prior")
        both[0].injectors["dummy"].detach()
        _same_terms({k: _terms(both[0], batch)[k] for k in wanted}, wanted, "once the other left")

    def test_a_missing_clip_field_is_named(self) -> None:
        model = self.model()
        needs = model.needs["prior"]
        for field in needs.clip_fields:
            clips = [_without(clip, field) for clip in self.clips()]
            batch = self.batch(model, clips)
            try:
                check_clip_fields("prior", needs, batch)
            except MissingClipFieldError as error:
                told = str(error)
                assert field in told and "prior" in told and clips[0].clip_id in told, told
            else:
                raise AssertionError(f"clips without {field} pass the check")
            try:  # where such a clip comes among others, it is refused or passed over, never a riddle
                terms = _terms(model, batch)
            except MissingClipFieldError:
                continue
            assert all(bool(term.sum.isfinite()) for term in terms.values()), (
                f"a loss term is not finite on clips without {field}"
            )

    def test_nothing_to_score_gives_a_connected_zero(self) -> None:
        model = self.model()
        batch = self.batch(model, [self.unscorable(clip) for clip in self.clips()])
        terms = _terms(model, batch)
        for name, term in terms.items():
            assert bool(term.sum.isfinite()), f"{name} is {term.sum.item()} with nothing to score"
            if name.startswith("prior/") and term.count == 0:
                assert term.sum.item() == 0.0, f"{name} has no item, yet its sum is not zero"
        grads = _gradients(model, batch)
        names = [name for name, _ in _trainable(model.injectors["prior"])]
        lost = [name for name in names if grads[f"priors.prior.{name}"] is None]
        assert not lost, f"with nothing to score, no gradient (not even zero) reaches {lost}"
        broken = [
            name for name, grad in grads.items() if grad is not None and not grad.isfinite().all()
        ]
        assert not broken, f"with nothing to score, the gradient of {broken} is not finite"

    def test_export_mode_is_honoured(self) -> None:
        mode = self.injector_class.export_mode
        assert isinstance(mode, ExportMode), "export_mode must be an ExportMode"
        model = self.model()
        _shake(model.injectors["prior"])
        stock = SpatialModel(self.backbone(), {})
        prior = model.injectors["prior"]
        if mode is ExportMode.KEEP:
            assert prior.state_dict(), "export_mode is KEEP, but there is nothing to keep"
            return
        batch = self.batch(model)
        with_prior, without = _logits(model, batch), _logits(model, batch, without="prior")
        edited = _edited(model)
        model.detach()
        if not edited:
            without = _logits(model, batch)
        keys = model.backbone.state_dict().keys()
        assert keys == stock.backbone.state_dict().keys(), "the export's keys differ from stock"
        assert _size(model) == _size(stock), "the export's parameter count differs from stock"
        # Discarding must not change inference: an exported model answers as the trained one did.
        assert mode is not ExportMode.DISCARD or torch.equal(without, with_prior), (
            "export_mode is DISCARD, but the prior had changed the logits"
        )


# --- helpers ----------------------------------------------------------------------------------


def _logits(model: SpatialModel, batch: ClipBatch, without: str = "") -> Tensor:
    """Logits with all edits in place but for those of one prior."""
    torch.manual_seed(3)
    contexts = {name: c for name, c in model.prepare(batch).items() if name != without}
    with torch.no_grad():
        output = model.backbone(batch, edits=model.edits(contexts))
        return model.backbone.logits(output.hidden)


def _edited(model: SpatialModel) -> bool:
    """Whether a prior beside the one under test changes what the backbone computes."""
    return any(needs.edits for name, needs in model.needs.items() if name != "prior")


def _terms(model: SpatialModel, batch: ClipBatch) -> dict[str, LossTerm]:
    torch.manual_seed(3)
    return {term.name: term for term in model(batch)}


def _loss(model: SpatialModel, batch: ClipBatch) -> Tensor:
    terms = _terms(model, batch)
    return total_loss(list(terms.values()), {name: term.count for name, term in terms.items()})


def _gradients(model: SpatialModel, batch: ClipBatch) -> Gradients:
    model.zero_grad(set_to_none=True)
    _loss(model, batch).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def _trainable(module: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def _shake(module: nn.Module) -> None:
    """Move every parameter a little, as training would."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def _without(clip: MultiViewClip, field: str) -> MultiViewClip:
    absent: dict[str, Any] = {field: None}
    return dataclasses.replace(clip, **absent)


def _close(a: Tensor, b: Tensor, rounding: float) -> bool:
    scale = float(b.abs().max())
    return torch.allclose(a, b, rtol=1e-4, atol=max(1e-6 * scale, 1e-9, rounding))


def _same_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    assert found.keys() == wanted.keys(), f"{what}: keys differ: {found.keys() ^ wanted.keys()}"
    differ = [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)]
    assert not differ, f"{what}: {differ} changed"


def _same_terms(found: dict[str, LossTerm], wanted: dict[str, LossTerm], when: str) -> None:
    for name, term in wanted.items():
        same = torch.equal(found[name].sum, term.sum) and found[name].count == term.count
        assert same, f"loss term {name} {when}: {found[name]} instead of {term}"
