"""The adapter against the stock class: same bits, exact taps, packed questions, edits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from spatialprior.backbones.nano import qwen2_5_vl_nano as nano
from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.sites import VISUAL_TOKENS, residual_in, residual_out
from spatialprior.core.terms import total_loss
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.testing import plane_clip, tiny_backbone

QUESTIONS = (
    ("Is the red chair near?", "yes"),
    ("How many chairs?", "2"),
    ("Left or right?", "left"),
)


def merging_twin() -> Qwen2_5VL:
    """A twin that folds 2x2 patches into a token, as the published models do."""
    processor = nano.processor()
    processor.image_processor.merge_size = 2
    config = nano.config(processor.tokenizer)
    config.vision_config.spatial_merge_size = 2
    torch.manual_seed(0)
    return Qwen2_5VL(Qwen2_5_VLForConditionalGeneration(config), processor)


def one_question(clip_id: str, index: int, **kwargs):
    return plane_clip(clip_id, questions=QUESTIONS[index : index + 1], **kwargs)


@pytest.mark.parametrize("batch_kind", ["single", "padded"])
@pytest.mark.parametrize("twin", ["nano", "merging"])
def test_logits_are_bitwise_stock(twin, batch_kind, tmp_path):
    backbone = (tiny_backbone() if twin == "nano" else merging_twin()).eval()
    backbone.save(tmp_path / "hf")
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    assert type(stock) is Qwen2_5_VLForConditionalGeneration
    clips = [one_question("a", 0, num_views=2)]
    if batch_kind == "padded":
        clips.append(one_question("b", 1, num_views=3, size=(48, 96)))
    batch = backbone.encoder()(clips)
    assert batch.branches is None
    if batch_kind == "padded":
        assert (batch.inputs["attention_mask"] == 0).any()
    with torch.no_grad():
        ours = backbone.logits(backbone(batch).hidden)
        taps = [residual_in(0), residual_out(3)]
        tapped = backbone.logits(backbone(batch, tap_sites=taps).hidden)
        theirs = stock(**batch.inputs).logits
    assert torch.equal(ours, theirs)
    assert torch.equal(tapped, theirs)


def test_packed_questions_equal_one_sequence_each():
    clips = [
        plane_clip("a", num_views=2, questions=QUESTIONS),
        plane_clip("b", num_views=3, questions=QUESTIONS[1:], size=(64, 80)),
    ]
    backbone = tiny_backbone()
    model = SpatialModel(backbone, {})
    encode = backbone.encoder()
    packed = encode(clips)
    assert packed.branches is not None and int(packed.branches.max()) == 3
    single = [
        encode([clip.with_questions((question,))]) for clip in clips for question in clip.questions
    ]

    def gradients(batches):
        model.zero_grad()
        terms = [term for batch in batches for term in model(batch)]
        total = sum(term.count for term in terms)
        loss = sum(term.sum for term in terms) / total
        loss.backward()
        return total, loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}

    count, loss, grads = gradients([packed])
    count_single, loss_single, grads_single = gradients(single)
    assert count == count_single
    torch.testing.assert_close(loss, loss_single, rtol=1e-5, atol=1e-5)
    for name, grad in grads_single.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-5, msg=name)
    # Every labelled state is the same one by one, so no branch sees another.
    with torch.no_grad():
        hidden = backbone(packed).hidden
        for i, one in enumerate(single[:3]):
            wanted = backbone(one).hidden[0][one.labels[0] != -100]
            row = (packed.branches[0] == i + 1) & (packed.labels[0] != -100)
            torch.testing.assert_close(hidden[0][row], wanted, rtol=1e-5, atol=1e-5)


def test_taps_equal_output_hidden_states():
    backbone = tiny_backbone().eval()
    batch = backbone.encoder()([one_question("a", 0), one_question("b", 1, num_views=2)])
    layers = range(backbone.num_layers)
    sites = [residual_in(i) for i in layers] + [residual_out(i) for i in layers]
    with torch.no_grad():
        output = backbone(batch, tap_sites=sites)
        states = backbone.hf(**batch.inputs, output_hidden_states=True).hidden_states
    for i in layers:
        assert torch.equal(output.taps[residual_in(i)], states[i])
        if i + 1 < backbone.num_layers:
            assert torch.equal(output.taps[residual_out(i)], states[i + 1])
    # The last of theirs is after the final norm; ours is before it.
    last = output.taps[residual_out(backbone.num_layers - 1)]
    with torch.no_grad():
        assert torch.equal(backbone.decoder.norm(last), states[-1])
    assert not torch.equal(last, states[-1])


def test_hooks_are_gone_after_a_pass_even_a_failed_one():
    backbone = tiny_backbone()
    batch = backbone.encoder()([one_question("a", 0)])

    def fail(tokens):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        backbone(batch, tap_sites=[residual_out(0)], edits={VISUAL_TOKENS: [fail]})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    with pytest.raises(ValueError, match=r"residual_in\[0\.\.3\]"):
        backbone(batch, tap_sites=[residual_out(4)])
    with pytest.raises(ValueError, match="visual_tokens"):
        backbone(batch, edits={residual_out(0): [lambda tokens: tokens]})


def gasp_gradients(kind, *, lora=False):
    from spatialprior.backbones.lora import LoraOptions, inject

    backbone = tiny_backbone()
    if lora:
        torch.manual_seed(4)
        inject(backbone.hf, backbone.decoder_layers, LoraOptions(rank=4, alpha=8))
        with torch.no_grad():  # B starts at zero, which would hide half of the gradients
            for name, p in backbone.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.1)
    torch.manual_seed(0)
    model = SpatialModel(backbone, {"gasp": Gasp(Gasp.Config(embedding_dim=16, anchors=[4]))})
    backbone.set_gradient_checkpointing(kind)
    model.train()
    batch = backbone.encoder()([one_question("a", 0), one_question("b", 1, num_views=2)])
    terms = model(batch)
    total_loss(terms, {term.name: term.count for term in terms}).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_keeps_gasps_gradients(lora):
    wanted = gasp_gradients("none", lora=lora)
    assert all(grad is not None and grad.any() for name, grad in wanted.items() if "lora" in name)
    for kind in ("nonreentrant", "reentrant"):
        found = gasp_gradients(kind, lora=lora)
        assert found.keys() == wanted.keys()
        for name, grad in wanted.items():
            assert (grad is None) == (found[name] is None), (kind, name)
            if grad is not None:
                torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-7, msg=name)


def test_gradient_checkpointing_switches_on_and_off():
    backbone = tiny_backbone().train()
    layer = backbone.decoder_layers[0]
    backbone.set_gradient_checkpointing("reentrant")
    assert layer.gradient_checkpointing
    embedding = backbone.hf.get_input_embeddings()
    assert len(embedding._forward_hooks) == 1
    backbone.set_gradient_checkpointing("reentrant")
    assert len(embedding._forward_hooks) == 1
    backbone.set_gradient_checkpointing("none")
    assert not layer.gradient_checkpointing and not embedding._forward_hooks
    with pytest.raises(ValueError, match="none, reentrant, nonreentrant"):
        backbone.set_gradient_checkpointing("sometimes")


def test_compiled_layers_give_the_same_taps():
    backbone = tiny_backbone()
    batch = backbone.encoder()([one_question("a", 0, num_views=2)])
    sites = [residual_out(i) for i in range(backbone.num_layers)]
    keys = backbone.state_dict().keys()

    def run():
        backbone.zero_grad()
        output = backbone(batch, tap_sites=sites)
        sum(tap.square().mean() for tap in output.taps.values()).backward()
        grads = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
        return output.taps, grads

    plain_taps, plain_grads = run()
    # aot_eager traces the forward and backward graphs as inductor does, without minutes of C++ compilation.
    backbone.compile_layers(backend="aot_eager")
    taps, grads = run()
    assert backbone.state_dict().keys() == keys
    for site in sites:
        torch.testing.assert_close(taps[site], plain_taps[site], rtol=1e-5, atol=1e-5)
    assert grads.keys() == plain_grads.keys()
    for name, grad in plain_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)
    torch._dynamo.reset()


def test_identity_edit_keeps_bits_and_an_edit_reaches_visual_tokens_only():
    backbone = tiny_backbone().eval()
    batch = backbone.encoder()([one_question("a", 0), one_question("b", 1, num_views=2)])
    first = residual_in(0)
    with torch.no_grad():
        stock = backbone(batch, tap_sites=[first])
        same = backbone(batch, tap_sites=[first], edits={VISUAL_TOKENS: [lambda t: t, lambda t: t]})
        chain = [lambda t: t + 1, lambda t: 2 * t]
        edited = backbone(batch, tap_sites=[first], edits={VISUAL_TOKENS: chain})
    assert torch.equal(backbone.logits(same.hidden), backbone.logits(stock.hidden))
    visual = backbone.visual_mask(batch.inputs)
    before, after = stock.taps[first], edited.taps[first]
    assert torch.equal(after[~visual], before[~visual])
    torch.testing.assert_close(after[visual], 2 * (before[visual] + 1))
    # Tokens arrive in sequence order: what the token map gathers is what the edit saw.
    seen = []
    with torch.no_grad():
        backbone(batch, edits={VISUAL_TOKENS: [lambda t: (seen.append(t), t)[1]]})
    gathered = batch.token_map.gather(before)[batch.token_map.valid]
    assert torch.equal(seen[0], gathered)


def test_generation_stops_and_drops_the_prompt():
    backbone = tiny_backbone().eval()
    clips = [one_question("a", 0, num_views=2), one_question("b", 1)]
    encoder = backbone.encoder()
    batch = encoder.prompts(clips)
    assert (batch.inputs["attention_mask"][:, -1] == 1).all()  # padded on the left
    tokens = backbone.generate(batch, max_new_tokens=3)
    assert tokens.shape[0] == 2 and tokens.shape[1] <= 3
    alone = backbone.generate(encoder.prompts(clips[:1]), max_new_tokens=3)
    assert torch.equal(tokens[0, : alone.shape[1]], alone[0])
    assert all(isinstance(reply, str) for reply in encoder.decode(tokens))
    with pytest.raises(ValueError, match="clip c has 3 questions"):
        encoder.prompts([plane_clip("c", questions=QUESTIONS)])


def test_load_applies_its_options(nano_folder):
    config = Qwen2_5VL.Config(path=str(nano_folder), freeze_vision=True, max_pixels=64 * 64)
    backbone = Qwen2_5VL.load(config)
    assert not any(p.requires_grad for p in backbone.hf.model.visual.parameters())
    assert all(p.requires_grad for p in backbone.decoder_layers.parameters())
    batch = backbone.encoder()([one_question("a", 0, size=(128, 128))])
    assert batch.token_map.grid[0].tolist() == [[8, 8]] * 3
    with_lora = Qwen2_5VL.load(dataclasses.replace(config, lora=Qwen2_5VL_lora()))
    names = [n for n, p in with_lora.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)


def Qwen2_5VL_lora():
    from spatialprior.backbones.lora import LoraOptions

    return LoraOptions(rank=2, alpha=4)


def test_rotary_tables_are_the_models_own():
    backbone = tiny_backbone().eval()
    batch = backbone.encoder()([plane_clip("a", questions=QUESTIONS), one_question("b", 1)])
    seen = {}
    attention = backbone.attention_modules()[0]
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        backbone(batch)
    hook.remove()
    wanted = seen["position_embeddings"]
    ours = backbone.rotary(batch)
    if wanted[0].ndim == ours[0].ndim:
        for mine, theirs in zip(ours, wanted, strict=True):
            assert torch.equal(mine, theirs)
    else:  # the three axes apart: ours are joined by section
        assert ours[0].shape == wanted[0].shape[1:]


def test_on_meta_trains_what_load_trains(nano_folder):
    from transformers import AutoConfig

    config = Qwen2_5VL.Config(path=str(nano_folder), freeze_vision=True, dtype="bfloat16")
    for settings in (config, dataclasses.replace(config, lora=Qwen2_5VL_lora())):
        loaded = Qwen2_5VL.load(settings)
        planned = Qwen2_5VL.on_meta(AutoConfig.from_pretrained(nano_folder), settings)
        wanted = {n: (p.shape, p.dtype, p.requires_grad) for n, p in loaded.named_parameters()}
        found = {n: (p.shape, p.dtype, p.requires_grad) for n, p in planned.named_parameters()}
        assert found == wanted
        assert all(p.is_meta for p in planned.parameters())
        blocks = {type(b).__name__ for b in planned.blocks()}
        assert blocks == {"Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"}
        with pytest.raises(ValueError, match="no processor"):
            planned.encoder()
