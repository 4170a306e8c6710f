"""What trains in which stage, and beside adapters."""

from __future__ import annotations

import pytest
import torch
from experts import backward, model, shake

from spatialprior.backbones.lora import LoraOptions
from spatialprior.testing import plane_clip
from spatialprior.train.config import TrainerConfig
from spatialprior.train.optim import make_optimizer

pytestmark = pytest.mark.usefixtures("features")

STAGES = {
    # Whether the expert's layers, its heads, and the backbone train.
    "geometry": (True, True, False),
    "ce_only": (False, False, True),
    "ce_ce": (True, False, True),
    "vg_ce": (True, True, True),
}


def clips():
    return [plane_clip("a", num_views=3), plane_clip("b", num_views=2, size=(64, 96))]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("form", ["full", "narrow", "lora"])
def test_a_stage_trains_what_it_says_and_one_step_leaves_the_rest_as_it_was(stage, form):
    expert = {"form": form, "width": 24, "mlp_width": 40, "rank": 4}
    whole = model(stage=stage, expert=expert)
    layers, heads, backbone = STAGES[stage]
    counts = backward(whole, whole.backbone.encoder()(clips()))
    assert ("expert/points" in counts) == (stage in ("geometry", "vg_ce"))
    # In ce_ce nobody reads what the last layer makes of geometry tokens.
    unread = ("priors.expert.layers.3.", "priors.expert.norm.") if stage == "ce_ce" else ()
    for name, parameter in whole.named_parameters():
        assert parameter.grad is None or parameter.requires_grad, name
        if name.startswith(unread):
            continue
        wanted = layers if name.startswith("priors.") else backbone
        wanted = heads if name.startswith("priors.expert.heads.") else wanted
        assert parameter.requires_grad == wanted, name
        assert (parameter.grad is not None) == wanted, name
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    make_optimizer(whole, TrainerConfig(steps=1, learning_rate=1e-2, weight_decay=0.5)).step()
    moved = {name for name, t in whole.state_dict().items() if not torch.equal(t, before[name])}
    for start, wanted in (
        ("priors.expert.layers.", layers),
        ("priors.expert.heads.", heads),
        ("priors.", layers or heads),
        ("backbone.", backbone),
    ):
        assert any(name.startswith(start) for name in moved) == wanted, start


@pytest.mark.parametrize("form", ["full", "lora"])
def test_in_ce_ce_every_weight_that_trains_is_read(form):
    whole = model(stage="ce_ce", expert={"form": form, "rank": 4})
    shake(whole.priors)
    backward(whole, whole.backbone.encoder()(clips()))
    for name, parameter in whole.injectors["expert"].named_parameters():
        if parameter.requires_grad:
            assert bool(parameter.grad.any()), name


def test_an_encoder_that_trains_gets_a_gradient_and_one_that_does_not_gets_none():
    whole = model(train_encoder=True)
    backward(whole, whole.backbone.encoder()(clips()))
    reached = [n for n, p in whole.priors.expert.vision.named_parameters() if bool(p.grad.any())]
    assert any("layer.0" in name for name in reached)
    frozen = model()
    backward(frozen, frozen.backbone.encoder()(clips()))
    encoder = frozen.injectors["expert"].encoder.module
    assert not any(p.requires_grad or p.grad is not None for p in encoder.parameters())
    assert not {id(p) for p in encoder.parameters()} & {id(p) for p in frozen.parameters()}


def test_adapters_beside_a_full_expert_both_train():
    whole = model(stage="vg_ce", lora=LoraOptions(rank=4, alpha=8))
    backward(whole, whole.backbone.encoder()(clips()))
    for name, parameter in whole.backbone.named_parameters():
        assert parameter.requires_grad == (".lora_" in name), name
        if ".lora_B." in name:
            assert bool(parameter.grad.any()), name
    layers = whole.injectors["expert"].layers
    assert all(p.grad is not None for p in layers.parameters())
    assert all(bool(layer.q_proj.weight.grad.any()) for layer in layers)


def test_a_low_rank_expert_beside_adapters_is_refused_in_one_line():
    """The export merges the adapters into the weights that such an expert shares, and would change it."""
    with pytest.raises(ValueError, match=r"expert\.form=lora .*expert\.form=full") as error:
        model(lora=LoraOptions(rank=4, alpha=8), expert={"form": "lora", "rank": 4})
    assert "\n" not in str(error.value)
