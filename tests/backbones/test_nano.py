"""The nano base: expansion leaves the model's answers alone."""

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from spatialprior.backbones.nano.qwen2_5_vl_nano import expand
from spatialprior.backbones.nano.shape import LAYERS
from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL


@pytest.mark.parametrize("blocks", [1, 2])
def test_an_expanded_model_answers_bit_for_bit_as_before(nano_folder, tmp_path, blocks):
    expand(nano_folder, tmp_path, blocks)
    before = Qwen2_5_VLForConditionalGeneration.from_pretrained(nano_folder).eval()
    after = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert after.config.text_config.num_hidden_layers == LAYERS + blocks
    ids = torch.randint(0, 400, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(before(ids).logits, after(ids).logits)


def test_the_new_blocks_can_learn(nano_folder, tmp_path):
    """Zero output projections, yet not a dead end: their gradient is not zero."""
    expand(nano_folder, tmp_path)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    ids = torch.randint(0, 400, (2, 24), generator=torch.Generator().manual_seed(0))
    model(ids, labels=ids).loss.backward()
    for block in model.model.language_model.layers[:2]:
        assert block.self_attn.o_proj.weight.grad.abs().max() > 0
        assert block.mlp.down_proj.weight.grad.abs().max() > 0


def test_the_shipped_base_has_its_identity_blocks():
    base = Qwen2_5VL.load(Qwen2_5VL.Config())
    layers = base.hf.model.language_model.layers
    assert len(layers) == LAYERS + 2
    for layer, block in enumerate(layers):
        idle = not block.self_attn.o_proj.weight.any() and not block.mlp.down_proj.weight.any()
        assert idle == (layer < 2)
        assert block.self_attn.q_proj.weight.any()


@pytest.mark.parametrize("blocks", [0, -1])
def test_expanding_by_nothing_is_refused(nano_folder, tmp_path, blocks):
    with pytest.raises(ValueError, match="at least 1"):
        expand(nano_folder, tmp_path, blocks)
