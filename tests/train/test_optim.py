from __future__ import annotations

import math

import pytest
import torch

from spatialprior.backbones.lora import LoraOptions, inject
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.testing import tiny_backbone
from spatialprior.train.accelerator import HardwareError, make_accelerator
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.optim import make_optimizer, rate_factor, set_rate


def test_groups_by_owner_hold_every_trainable_parameter_once():
    model = SpatialModel(tiny_backbone(), {"gasp": Gasp(Gasp.Config(embedding_dim=8))})
    model.backbone.hf.model.visual.requires_grad_(False)
    optimizer = make_optimizer(model, TrainerConfig(weight_decay=0.1, betas=(0.8, 0.95)))
    owner_of = {id(p): "backbone" for p in model.backbone.parameters() if p.requires_grad}
    owner_of |= {id(p): "priors.gasp" for p in model.priors.parameters()}
    seen = []
    for group in optimizer.param_groups:
        assert group["betas"] == (0.8, 0.95)
        for p in group["params"]:
            seen.append(id(p))
            assert owner_of[id(p)] == group["owner"]
            assert group["weight_decay"] == (0.1 if p.ndim >= 2 else 0.0)
    assert sorted(seen) == sorted(owner_of)


def test_with_lora_the_backbone_group_is_the_adapters():
    backbone = tiny_backbone()
    names = inject(backbone.hf, backbone.decoder_layers, LoraOptions(rank=2, alpha=4))
    optimizer = make_optimizer(SpatialModel(backbone, {}), TrainerConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2 * len(names)


def test_nothing_to_train_is_told():
    model = SpatialModel(tiny_backbone().requires_grad_(False), {})
    with pytest.raises(ValueError, match="nothing to train"):
        make_optimizer(model, TrainerConfig())


def test_cosine_schedule_closed_form():
    config = TrainerConfig(steps=110, warmup_fraction=1 / 11)  # 10 steps up, 100 down
    factors = [rate_factor(step, config) for step in range(110)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10:] == pytest.approx(
        [0.5 + 0.5 * math.cos(math.pi * i / 100) for i in range(100)]
    )
    assert factors[60] == pytest.approx(0.5)


def test_constant_schedule_and_no_warmup():
    config = TrainerConfig(steps=10, schedule="constant", warmup_fraction=0.0)
    assert [rate_factor(step, config) for step in range(10)] == [1.0] * 10


def test_rates_scale_from_each_groups_own_peak():
    model = SpatialModel(
        tiny_backbone(), {"gasp": Gasp(Gasp.Config(embedding_dim=8, lr_multiple=3.0))}
    )
    optimizer = make_optimizer(model, TrainerConfig(learning_rate=0.2))
    for factor in (0.5, 0.1):  # repeated calls do not compound
        set_rate(optimizer, factor)
    rates = {group["owner"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": pytest.approx(0.02), "priors.gasp": pytest.approx(0.06)}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("clips_per_step", 0),
        ("grad_clip", -1.0),
        ("warmup_fraction", 1.0),
        ("learning_rate", 0.0),
    ],
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=rf"trainer\.{setting}="):
        TrainerConfig(**{setting: value})


def test_hardware_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HardwareError, match="no CUDA device"):
        make_accelerator(ScaleConfig(device="cuda"))
    with pytest.raises(HardwareError, match="sharding=fsdp2"):
        make_accelerator(ScaleConfig(device="cpu", sharding="fsdp2"))
    assert make_accelerator(ScaleConfig()).device.type == "cpu"


def test_a_frozen_backbone_has_no_group_and_the_priors_all_of_theirs():
    model = SpatialModel(
        tiny_backbone().requires_grad_(False), {"gasp": Gasp(Gasp.Config(embedding_dim=8))}
    )
    groups = make_optimizer(model, TrainerConfig()).param_groups
    assert {group["owner"] for group in groups} == {"priors.gasp"}
    assert sum(len(group["params"]) for group in groups) == len(list(model.priors.parameters()))
