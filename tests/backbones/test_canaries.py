"""What the adapters borrow from inside transformers. When a release moves one of these, its canary says which.

Each message names what moved and where we use it; the other tests then say what that breaks.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spatialprior.registry import BACKBONES
from spatialprior.testing import plane_clip, tiny_backbone

KINDS = BACKBONES.names()
QWEN = [kind for kind in KINDS if kind.startswith("qwen")]
MODES = [("qwen2_5_vl", "images"), ("qwen3_vl", "video"), ("llava_next_video", "video")]
MODES += [("llava_onevision", "images"), ("qwen2_vl", "images")]


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return tiny_backbone(kind=request.param).eval()


def passed_to(module: nn.Module, backbone, batch):
    """Arguments of ``module`` in a forward pass."""
    seen: dict = {}

    def hook(_, args, kwargs):
        seen.update(args=args, kwargs=kwargs)

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        backbone.hf(**batch.inputs, use_cache=False)
    handle.remove()
    return seen


def batch_of(backbone):
    return backbone.encoder()([plane_clip("a", num_views=2)])


def moved(what: str, where: str) -> str:
    return f"transformers moved {what}; used in spatialprior/backbones/{where}"


def test_the_decoder_gets_embeddings_by_keyword(backbone):
    seen = passed_to(backbone.decoder, backbone, batch_of(backbone))
    embeds = seen["kwargs"].get("inputs_embeds")
    assert isinstance(embeds, torch.Tensor), moved(
        "inputs_embeds (keyword of the text model)", "hooks.py: edit_tokens"
    )


def test_layers_are_where_the_adapters_look(backbone):
    layers = getattr(backbone.decoder, "layers", None)
    assert isinstance(layers, nn.ModuleList), moved("<text model>.layers", "hf.py: decoder_layers")
    assert len(layers) == backbone.hf.config.get_text_config().num_hidden_layers
    for part, where in {
        "self_attn": "hf.py: attention_modules",
        "input_layernorm": "hf.py: input_norm_weight",
        "self_attn.q_proj": "hf.py: query_weight",
        "self_attn.k_proj": "lora.py: ROLES",
        "self_attn.v_proj": "lora.py: ROLES",
        "self_attn.o_proj": "lora.py: ROLES",
        "mlp.gate_proj": "lora.py: ROLES",
        "mlp.up_proj": "lora.py: ROLES",
        "mlp.down_proj": "lora.py: ROLES",
    }.items():
        assert part in dict(layers[0].named_modules()), moved(f"<layer>.{part}", where)


def test_layers_take_and_give_hidden_states_as_hooks_read_them(backbone):
    layer = backbone.decoder_layers[1]
    seen = passed_to(layer, backbone, batch_of(backbone))
    first = seen["args"][0] if seen["args"] else seen["kwargs"].get("hidden_states")
    assert isinstance(first, torch.Tensor) and first.ndim == 3, moved(
        "hidden_states (first argument of a layer)", "hooks.py: store_input"
    )


def test_vision_is_where_the_adapters_look(backbone):
    blocks = backbone.vision_blocks
    config = backbone.hf.config.vision_config
    depth = getattr(config, "num_hidden_layers", None) or config.depth
    where = moved("the vision tower's blocks", "qwen_vl.py and llava.py: vision_blocks")
    assert len(blocks) == depth, where
    for module in backbone.vision:
        assert isinstance(module, nn.Module)


def test_stock_agrees_on_what_to_wrap(backbone):
    """``_no_split_modules`` (accelerate's own source) names the decoder layer; ours must not contradict it."""
    named = getattr(backbone.decoder, "_no_split_modules", None) or ()
    assert type(backbone.decoder_layers[0]).__name__ in named, moved(
        "_no_split_modules of the text model", "hf.py: blocks"
    )


def test_the_last_state_is_after_the_final_norm(backbone):
    batch, seen = batch_of(backbone), {}
    norm = getattr(backbone.decoder, "norm", None)
    assert norm is not None, moved("<text model>.norm", "hf.py: forward (hidden is post-norm)")
    handle = norm.register_forward_hook(lambda m, a, out: seen.update(out=out))
    with torch.no_grad():
        output = backbone.hf.base_model(**batch.inputs, use_cache=False)
        every = backbone.hf(**batch.inputs, output_hidden_states=True, use_cache=False)
    handle.remove()
    where = moved("the final norm (last_hidden_state is no longer after it)", "hf.py: forward")
    assert torch.equal(output.last_hidden_state, seen["out"]), where
    assert torch.equal(every.hidden_states[-1], seen["out"]), where


def test_logits_are_the_output_embeddings_of_the_base_models_states(backbone):
    batch = batch_of(backbone)
    with torch.no_grad():
        states = backbone.hf.base_model(**batch.inputs, use_cache=False).last_hidden_state
        ours = backbone.hf.get_output_embeddings()(states)
        assert torch.equal(ours, backbone.hf(**batch.inputs).logits), moved(
            "what lies between base_model and logits", "hf.py: logits"
        )


def test_image_and_video_tokens_have_ids(backbone):
    for name in ("image_token_id", "video_token_id"):
        assert isinstance(getattr(backbone.hf.config, name, None), int), moved(
            f"config.{name}", "hf.py: visual_mask"
        )
    for name in ("image_token", "video_token"):
        assert isinstance(getattr(backbone.processor, name, None), str), moved(
            f"processor.{name}", "chat_encoder.py"
        )


def test_the_processor_says_what_replaces_a_placeholder(backbone):
    processor, view = backbone.processor, plane_clip("a", num_views=1).images[0]
    out = processor(
        text=[processor.image_token],
        images=[[view]],
        return_text_replacement_offsets=True,
        return_tensors="pt",
    )
    where = moved("text_replacement_offsets", "chat_encoder.py: _process")
    assert "text_replacement_offsets" in out, where
    (found,) = out["text_replacement_offsets"][0]
    assert found["text"] == processor.image_token, where
    count = found["replacement"].count(processor.image_token)
    assert count == int((out["input_ids"] == backbone.hf.config.image_token_id).sum()), where


def test_attention_is_looked_up_by_name_and_takes_a_mask(backbone):
    assert "sdpa" in ALL_ATTENTION_FUNCTIONS, moved(
        "ALL_ATTENTION_FUNCTIONS", "qk.py (diagnostics)"
    )
    assert hasattr(backbone.hf.config, "_attn_implementation"), moved(
        "config._attn_implementation", "hf.py: forward and on_meta"
    )
    calls = []
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = lambda m, *a, **k: (calls.append(m), stock(m, *a, **k))[1]
    try:
        with torch.no_grad():
            backbone(batch_of(backbone))
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert set(backbone.attention_modules()) <= set(calls), moved(
        "attention's call through the interface", "hf.py: attention_modules; diagnostics/qk.py"
    )


@pytest.mark.parametrize("kind", QWEN)
def test_qwen_positions(kind):
    model = tiny_backbone(kind=kind).hf.model
    where = "qwen_vl.py: position_ids"
    assert hasattr(model, "get_rope_index"), moved("get_rope_index", where)
    wanted = {
        "input_ids",
        "mm_token_type_ids",
        "image_grid_thw",
        "video_grid_thw",
        "attention_mask",
    }
    wanted |= {"second_per_grid_ts"} if kind == "qwen2_5_vl" else set()
    taken = inspect.signature(model.get_rope_index).parameters
    assert wanted <= set(taken), moved(f"arguments {wanted - set(taken)} of get_rope_index", where)


def test_deepstack_arguments():
    backbone = tiny_backbone(kind="qwen3_vl").eval()
    batch = batch_of(backbone)
    kwargs = passed_to(backbone.decoder, backbone, batch)["kwargs"]
    where = "hooks.py: edit_deepstack"
    assert "deepstack_visual_embeds" in kwargs, moved("deepstack_visual_embeds (keyword)", where)
    features, visual = kwargs["deepstack_visual_embeds"], kwargs.get("visual_pos_masks")
    assert visual is not None, moved("visual_pos_masks (keyword)", where)
    levels = len(backbone.hf.config.vision_config.deepstack_visual_indexes)
    assert len(features) == levels, moved(
        "the number of DeepStack levels", "qwen3_vl.py: edit_sites"
    )
    assert torch.equal(visual, backbone.visual_mask(batch.inputs)), moved(
        "the mask of DeepStack", where
    )
    assert features[0].shape == (int(visual.sum()), backbone.hidden_size), moved(
        "their shape", where
    )


@pytest.mark.parametrize(("kind", "side"), [("llava_next_video", 12), ("llava_onevision", 6)])
def test_pooled_token_counts(kind, side):
    backbone = tiny_backbone(kind=kind, frames="video").eval()
    batch = backbone.encoder()([plane_clip("a", num_views=2)])
    with torch.no_grad():
        features = backbone.hf.model.get_video_features(batch.inputs["pixel_values_videos"])
    pooled = getattr(features, "pooler_output", None)
    assert pooled is not None, moved("pooler_output of get_video_features", "llava*.py")
    count = sum(part.flatten(0, -2).shape[0] for part in pooled)
    # OneVision's line break at the end: older releases add it after this.
    allowed = {2 * side * side, 2 * side * side + (kind == "llava_onevision")}
    assert count in allowed, moved("the pooling of video frames", f"{kind}.py")


@pytest.mark.parametrize(("kind", "frames"), MODES)
def test_pixels_go_in_under_the_known_names(kind, frames):
    encoder = tiny_backbone(kind=kind, frames=frames).encoder()
    names = set(encoder([plane_clip("a", num_views=2)]).inputs)
    pixels = "pixel_values_videos" if frames == "video" else "pixel_values"
    model = inspect.signature(tiny_backbone(kind=kind).model_class.forward).parameters
    assert pixels in names, moved(pixels, "chat_encoder.py: _visuals")
    assert names <= set(model), moved(
        f"arguments {names - set(model)} of forward", "chat_encoder.py"
    )
