"""The root module: terms, counts, edits, detaching."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from spatialprior.core.injector import MissingClipFieldError, Needs, PriorInjector
from spatialprior.core.sites import VISUAL_TOKENS
from spatialprior.model import PriorNameError, SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.testing import DummyObserver, InjectorContract, plane_clip, tiny_backbone


class Scale(PriorInjector):
    """An editor: visual tokens times ``1 + gate`` plus ``shift``."""

    @dataclasses.dataclass
    class Config:
        shift: float = 0.0

    def needs(self, num_layers):
        return Needs(edits=(VISUAL_TOKENS,))

    def attach(self, backbone):
        self.gate = nn.Parameter(torch.zeros(backbone.hidden_size))

    def edit(self, site, tokens, context):
        assert site == VISUAL_TOKENS
        return tokens * (1 + self.gate) + self.config.shift


class TestEditorPassesTheContract(InjectorContract):
    """The suite also fits priors that edit and have no loss of their own."""

    injector_class = Scale

    def test_export_mode_is_honoured(self):  # it declares DISCARD, yet changes the answers
        with pytest.raises(AssertionError, match="DISCARD"):
            super().test_export_mode_is_honoured()


def gasp():
    return Gasp(Gasp.Config(embedding_dim=8, anchors=[4]))


def test_terms_are_named_by_owner_and_the_language_comes_first():
    model = SpatialModel(
        tiny_backbone(), {"g": gasp(), "dummy": DummyObserver(DummyObserver.Config())}
    )
    encode = model.backbone.encoder()
    batch = encode([plane_clip("a")])
    assert [t.name for t in model(batch)] == ["language", "g/corr", "g/depth", "dummy/energy"]
    silent = encode([plane_clip("a", questions=())])
    assert [t.name for t in model(silent)] == ["g/corr", "g/depth", "dummy/energy"]
    assert SpatialModel(tiny_backbone(), {})(silent) == []


@pytest.mark.parametrize("name", ["keys", "training", "a.b", ""])
def test_a_name_that_torch_needs_is_refused(name):
    with pytest.raises(PriorNameError, match=f"cannot be named '{name}'"):
        SpatialModel(tiny_backbone(), {name: Scale(Scale.Config())})


def test_language_term_is_the_stock_models_loss():
    model = SpatialModel(tiny_backbone(), {}, language_weight=0.5).eval()
    batch = model.backbone.encoder()([plane_clip("a", num_views=2), plane_clip("b")])
    (term,) = model(batch)
    stock = model.backbone.hf(**batch.inputs, labels=batch.labels).loss
    torch.testing.assert_close(term.mean, stock)
    assert term.weight == 0.5 and term.count == float((batch.labels != -100).sum())


def test_editors_chain_in_the_recipes_order():
    def first_state(names):
        made = {"twice": Scale(Scale.Config()), "plus": Scale(Scale.Config(shift=1.0))}
        model = SpatialModel(tiny_backbone(), {name: made[name] for name in names})
        with torch.no_grad():
            made["twice"].gate.fill_(1.0)
        batch = model.backbone.encoder()([plane_clip("a", num_views=1)])
        edit = model.edits(model.prepare(batch))[VISUAL_TOKENS]
        tokens = torch.full((2, model.backbone.hidden_size), 3.0)
        for step in edit:
            tokens = step(tokens)
        return tokens[0, 0].item()

    assert first_state(["twice", "plus"]) == 7.0
    assert first_state(["plus", "twice"]) == 8.0


def test_a_missing_field_is_told_before_training():
    model = SpatialModel(tiny_backbone(), {"my_prior": gasp()})
    flat = dataclasses.replace(plane_clip("flat"), depth=None)
    with pytest.raises(MissingClipFieldError, match=r"'my_prior' needs depth, which clip flat"):
        model.check_fields(model.backbone.encoder()([flat]))
    SpatialModel(tiny_backbone(), {}).check_fields(model.backbone.encoder()([flat]))


def test_detach_leaves_no_trace():
    model = SpatialModel(tiny_backbone(), {"g": gasp()})
    stock = tiny_backbone().state_dict()
    model.detach()
    assert dict(model.injectors) == {} and model.needs == {}
    assert {k.removeprefix("backbone.") for k in model.state_dict()} == set(stock)
