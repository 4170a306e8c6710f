from __future__ import annotations

import copy
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model

from spatialprior.backbones.lora import LoraOptions, inject, merged_state_dict
from spatialprior.testing import plane_clip, tiny_backbone

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


def injected(**options):
    backbone = tiny_backbone()
    names = inject(backbone.hf, backbone.decoder_layers, LoraOptions(rank=4, alpha=8, **options))
    return backbone, names


@pytest.mark.parametrize(
    ("targets", "leaves"),
    [(("attention",), ATTENTION), (("mlp",), MLP), (("attention", "mlp"), ATTENTION | MLP)],
)
def test_inject_adapts_the_decoder_and_nothing_else(targets, leaves):
    backbone, names = injected(targets=targets)
    expected = {
        f"model.language_model.layers.{i}.{'self_attn' if leaf in ATTENTION else 'mlp'}.{leaf}"
        for i in range(4)
        for leaf in leaves
    }
    assert set(names) == expected and len(names) == len(expected)
    adapted = {
        re.sub(r"\.lora_[AB]\.default\.weight$", "", name)
        for name, p in backbone.hf.named_parameters()
        if p.requires_grad
    }
    assert adapted == expected


def test_unknown_role_is_told():
    backbone = tiny_backbone()
    with pytest.raises(ValueError, match=r"'vision'.*attention, mlp"):
        inject(backbone.hf, backbone.decoder_layers, LoraOptions(targets=("vision",)))


def _train_a_little(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # peft's own
def test_merge_equals_pefts_and_leaves_the_model_alone():
    backbone, names = injected()
    _train_a_little(backbone.hf)
    before = {k: v.clone() for k, v in backbone.hf.state_dict().items()}
    merged = merged_state_dict(backbone.hf)
    after = backbone.hf.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())

    stock = tiny_backbone().hf
    config = LoraConfig(r=4, lora_alpha=8, target_modules=names)
    peft_model = get_peft_model(copy.deepcopy(stock), config)
    for name, p in peft_model.named_parameters():
        if "lora_" in name:
            p.data = before[name.removeprefix("base_model.model.")].clone()
    wanted = peft_model.merge_and_unload().state_dict()
    assert merged.keys() == wanted.keys() == stock.state_dict().keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(merged[key], tensor, rtol=0, atol=1e-6, msg=key)
    assert not torch.equal(merged[f"{names[0]}.weight"], stock.state_dict()[f"{names[0]}.weight"])


def test_saved_folder_answers_as_the_adapted_model(tmp_path):
    from transformers import AutoModelForImageTextToText

    backbone, _ = injected()
    _train_a_little(backbone.hf)
    backbone.eval().save(tmp_path / "hf")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    assert stock.state_dict().keys() == tiny_backbone().hf.state_dict().keys()
    batch = backbone.encoder()([plane_clip("a", num_views=2)])
    with torch.no_grad():
        ours = backbone.logits(backbone(batch).hidden)
        torch.testing.assert_close(stock(**batch.inputs).logits, ours, rtol=1e-4, atol=1e-4)


def test_adapters_of_a_half_precision_model_are_float32():
    backbone = tiny_backbone().to(torch.bfloat16)
    inject(backbone.hf, backbone.decoder_layers, LoraOptions(rank=2, alpha=4))
    dtypes = {p.dtype for p in backbone.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}
    batch = backbone.encoder()([plane_clip("a", num_views=1)])
    assert backbone(batch).hidden.dtype == torch.bfloat16
    assert all(t.dtype == torch.bfloat16 for t in merged_state_dict(backbone.hf).values())


def test_facts_see_through_adapters():
    backbone, _ = injected()
    stock = tiny_backbone()
    assert torch.equal(backbone.query_weight(2), stock.query_weight(2))
    assert torch.equal(backbone.input_norm_weight(1), stock.input_norm_weight(1))
