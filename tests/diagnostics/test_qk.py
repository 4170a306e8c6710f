"""Capture, against queries and keys computed by hand from a stock model's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half

from spatialprior.diagnostics.qk import pick, undo_rotary, watch_attention

IMAGE = 90


def stock(attention: str) -> Qwen2_5_VLForConditionalGeneration:
    """A tiny random stock model with grouped keys (4 query heads on 2 key heads)."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 100,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [1, 1, 2],
            },
            "initializer_range": 0.2,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 1,
            "window_size": 16,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        image_token_id=IMAGE,
        video_token_id=91,
        vision_start_token_id=92,
        vision_end_token_id=93,
        attn_implementation=attention,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def inputs() -> dict[str, Tensor]:
    ids = torch.tensor([[1, 92, *[IMAGE] * 16, 93, 92, *[IMAGE] * 16, 93, 5, 6]])
    ids = torch.cat([ids, ids])
    attention = torch.ones_like(ids)
    attention[1, -1] = 0
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(64, 3 * 2 * 4 * 4, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * 4),
    }


def watched(
    model: Qwen2_5_VLForConditionalGeneration,
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    modules = [layer.self_attn for layer in model.model.language_model.layers]
    caught: dict[int, tuple[Tensor, Tensor]] = {}

    def consume(layer: int, query: Tensor, key: Tensor) -> None:
        assert layer not in caught
        caught[layer] = (query, key)

    with torch.no_grad(), watch_attention(modules, consume):
        logits = model(**inputs(), use_cache=False).logits
    return logits, caught


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_bitwise_unchanged_and_the_interface_is_restored(attention: str) -> None:
    model = stock(attention)
    before = ALL_ATTENTION_FUNCTIONS.get(attention)
    with torch.no_grad():
        plain = model(**inputs(), use_cache=False).logits
    logits, caught = watched(model)
    assert torch.equal(plain, logits)
    assert sorted(caught) == [
        0,
        1,
        2,
    ]  # the decoder's layers, once each, and nothing of the vision tower
    assert ALL_ATTENTION_FUNCTIONS.get(attention) is before
    with torch.no_grad():
        assert torch.equal(plain, model(**inputs(), use_cache=False).logits)


def test_the_interface_is_restored_after_an_error() -> None:
    model = stock("sdpa")
    before = ALL_ATTENTION_FUNCTIONS.get("sdpa")
    with (
        pytest.raises(RuntimeError, match="stop"),
        watch_attention(
            [layer.self_attn for layer in model.model.language_model.layers], lambda *_: None
        ),
    ):
        raise RuntimeError("stop")
    assert ALL_ATTENTION_FUNCTIONS.get("sdpa") is before


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_capture_equals_queries_and_keys_by_hand(attention: str) -> None:
    model = stock(attention)
    entering: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def keep(layer: int) -> object:
        def hook(module: object, args: object, kwargs: dict[str, Tensor]) -> None:
            entering[layer] = (kwargs["hidden_states"], *kwargs["position_embeddings"])

        return hook

    layers = model.model.language_model.layers
    for i, layer in enumerate(layers):
        layer.self_attn.register_forward_pre_hook(keep(i), with_kwargs=True)
    _, caught = watched(model)
    for i, layer in enumerate(layers):
        hidden, cos, sin = entering[i]
        for projection, got in zip(
            (layer.self_attn.q_proj, layer.self_attn.k_proj), caught[i], strict=True
        ):
            with torch.no_grad():
                raw = projection(hidden).unflatten(-1, (-1, 8)).transpose(1, 2)
            rotated = raw * cos.unsqueeze(1) + rotate_half(raw) * sin.unsqueeze(1)
            assert torch.allclose(got, rotated, atol=1e-6)
            # The inverse gives back what left the projection, at any subset of positions.
            clip = torch.tensor([1, 0])
            index = torch.tensor([[3, 7, 20], [2, 2, 34]])
            back = undo_rotary(
                pick(got, clip, index), cos[clip[:, None], index], sin[clip[:, None], index]
            )
            assert torch.allclose(back, pick(raw, clip, index), atol=1e-6)
        assert caught[i][0].shape[1] == 4 and caught[i][1].shape[1] == 2
