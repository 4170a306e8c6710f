"""Every family through the shared adapter: the stock class bit for bit, exact taps, an export that is stock."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from spatialprior.backbones.lora import LoraOptions, inject
from spatialprior.backbones.nano import twin
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.core.sites import VISUAL_TOKENS, residual_in, residual_out
from spatialprior.core.terms import total_loss
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.probe import probe
from spatialprior.eval.generate_packed import generate_packed
from spatialprior.export import export_model, load_export
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.registry import BACKBONES
from spatialprior.testing import plane_clip, tiny_backbone

KINDS = BACKBONES.names()
MODES = [(kind, frames) for kind in KINDS for frames in ("images", "video")]
TRAINED = [mode for mode in MODES if mode != ("llava_next_video", "images")]  # thousands of tokens
QUESTIONS = (("Is the red chair near?", "yes"), ("How many chairs?", "2"), ("Left?", "left"))


def make(kind: str, frames: str):
    return tiny_backbone(kind=kind, frames=frames).eval()


def clip(clip_id: str, index: int = 0, **kwargs) -> MultiViewClip:
    return plane_clip(clip_id, questions=QUESTIONS[index : index + 1], **kwargs)


def text_only(clip_id: str = "text", *questions: tuple[str, str], dialogue: bool = False):
    asked = questions or (("What has four legs?", "a table"),)
    return MultiViewClip(
        clip_id,
        clip_id,
        (),
        (),
        questions=tuple(Question("text", *pair) for pair in asked),
        dialogue=dialogue,
    )


def padded(backbone, frames: str):
    """Two clips of unlike size and, where the family's videos may differ in length, unlike length."""
    kind = type(backbone).__name__
    first, second = {
        ("LlavaOnevision", "video"): (3, 3),
        ("LlavaNextVideo", "images"): (1, 1),  # in tiles, each some thousand tokens
    }.get((kind, frames), (2, 3))
    clips = [clip("a", num_views=first), clip("b", 1, num_views=second, size=(48, 96))]
    return backbone.encoder()(clips)


@pytest.mark.parametrize(("kind", "frames"), MODES)
def test_logits_are_bitwise_stock(kind, frames, tmp_path):
    backbone = make(kind, frames)
    backbone.save(tmp_path)
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert type(stock) is backbone.model_class
    batch = padded(backbone, frames)
    assert (batch.inputs["attention_mask"] == 0).any()
    with torch.no_grad():
        ours = backbone.logits(backbone(batch).hidden)
        taps = [residual_in(0), residual_out(3)]
        tapped = backbone.logits(backbone(batch, tap_sites=taps).hidden)
        theirs = stock(**batch.inputs).logits
    assert torch.equal(ours, theirs) and torch.equal(tapped, theirs)


@pytest.mark.parametrize(("kind", "frames"), MODES)
def test_inputs_give_the_logits_of_the_processors_own(kind, frames):
    """One clip, encoded by us and by a plain call of the stock processor."""
    backbone = make(kind, frames)
    encoder, one = backbone.encoder(), clip("a", num_views=2, size=(64, 96))
    part = [{"type": "video"}] if frames == "video" else [{"type": "image"}] * 2
    message = {"role": "user", "content": [*part, {"type": "text", "text": QUESTIONS[0][0]}]}
    text = backbone.processor.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True
    )
    pixels = {"images": [list(one.images)]}
    if frames == "video":
        told = {"total_num_frames": 2, "fps": 2.0, "frames_indices": [0, 1]}
        pixels = {"videos": [one.images], "do_sample_frames": False, "video_metadata": [told]}
    theirs = backbone.processor(text=[text], return_tensors="pt", **pixels)
    ours = encoder.prompts([one]).inputs
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    with torch.no_grad():
        assert torch.equal(backbone.hf(**ours).logits, backbone.hf(**theirs).logits)


@pytest.mark.parametrize(("kind", "frames"), TRAINED)
def test_taps_are_what_enters_and_leaves_each_layer(kind, frames):
    backbone = make(kind, frames)
    batch, layers = padded(backbone, frames), range(backbone.num_layers)
    seen = {}

    def spy(layer, index):
        stock = layer.forward

        def forward(hidden_states, *args, **kwargs):
            out = stock(hidden_states, *args, **kwargs)
            seen[index] = hidden_states, out[0] if isinstance(out, tuple) else out
            return out

        return forward

    for index, layer in enumerate(backbone.decoder_layers):
        layer.forward = spy(layer, index)
    sites = [residual_in(i) for i in layers] + [residual_out(i) for i in layers]
    with torch.no_grad():
        output = backbone(batch, tap_sites=sites)
    for i in layers:
        assert torch.equal(output.taps[residual_in(i)], seen[i][0])
        assert torch.equal(output.taps[residual_out(i)], seen[i][1])
    last = output.taps[residual_out(backbone.num_layers - 1)]
    assert torch.equal(backbone.decoder.norm(last), output.hidden)


@pytest.mark.parametrize(("kind", "frames"), TRAINED)
def test_packed_questions_equal_one_sequence_each(kind, frames):
    backbone = make(kind, frames)
    encode = backbone.encoder()
    clips = [
        plane_clip("a", num_views=3, questions=QUESTIONS),
        plane_clip("b", num_views=3, questions=QUESTIONS[1:], size=(64, 80)),
        text_only("c", *QUESTIONS[:2]),
        text_only("d", *QUESTIONS[:2], dialogue=True),
    ]
    packed = encode(clips)
    assert packed.branches is not None and int(packed.branches.max()) == 3
    with torch.no_grad():
        hidden = backbone(packed).hidden
        for b, one in enumerate(clips):
            turns = [(q,) for q in one.questions] if not one.dialogue else [one.questions]
            for k, questions in enumerate(turns, start=0 if one.dialogue else 1):
                alone = encode([dataclasses.replace(one, questions=questions)])
                wanted = backbone(alone).hidden[0][alone.labels[0] != -100]
                row = (packed.branches[b] == k) & (packed.labels[b] != -100)
                torch.testing.assert_close(hidden[b][row], wanted, rtol=1e-4, atol=1e-4)
    replies = generate_packed(backbone, clips[:3], max_new_tokens=3)
    for one, found in zip(clips, replies, strict=False):
        for question, reply in zip(one.questions, found, strict=True):
            prompt = encode.prompts([one.with_questions((question,))])
            assert encode.decode(backbone.generate(prompt, 3)) == [reply]


@pytest.mark.parametrize(("kind", "frames"), TRAINED)
def test_clips_without_images_train_beside_others_and_alone(kind, frames):
    backbone = make(kind, frames)
    model = SpatialModel(backbone, {"gasp": Gasp(Gasp.Config(embedding_dim=8, anchors=[3]))})
    encoder = backbone.encoder()
    alone = encoder([text_only("t1"), text_only("t2", ("Two?", "2"), ("One?", "1"), dialogue=True)])
    mixed = encoder([text_only("t1"), clip("a", num_views=4)])
    assert alone.token_map.index.shape == (2, 0, 0)
    assert mixed.token_map.frames(0).tolist() == []
    for batch in (alone, mixed):
        model.zero_grad()
        terms = {term.name: term for term in model(batch)}
        total_loss(list(terms.values()), {n: max(t.count, 1) for n, t in terms.items()}).backward()
        assert terms["language"].count > 0
        assert (terms["gasp/corr"].count > 0) == (batch is mixed)
    with torch.no_grad():
        hidden = backbone(mixed).hidden[0]
        single = backbone(encoder([text_only("t1")])).hidden[0]
    torch.testing.assert_close(hidden[: len(single)], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "frames"), MODES)
def test_generation_is_the_stock_models(kind, frames, tmp_path):
    backbone = make(kind, frames)
    backbone.save(tmp_path)
    encoder = backbone.encoder()
    views = 1 if kind == "llava_next_video" and frames == "images" else 2
    batch = encoder.prompts([clip("a", num_views=views), clip("b", 1, num_views=views)])
    assert (batch.inputs["attention_mask"][:, -1] == 1).all()
    for prompts in (
        batch,
        encoder.prompts([text_only()]),
    ):  # images first: nothing of them may stay
        fresh = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
        wanted = fresh.generate(**prompts.inputs, do_sample=False, max_new_tokens=4)
        ours = backbone.generate(prompts, max_new_tokens=4)
        assert torch.equal(ours, wanted[:, prompts.inputs["input_ids"].shape[1] :])


@pytest.mark.parametrize(("kind", "frames"), TRAINED)
def test_gasp_trains_and_its_export_is_stock(kind, frames, tmp_path):
    cls = BACKBONES.get(kind)
    config = cls.Config(frames=frames, lora=LoraOptions(rank=2, alpha=4))
    backbone = cls.load(config)
    model = SpatialModel(backbone, {"gasp": Gasp(Gasp.Config(embedding_dim=8, anchors=[4]))})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    batch = backbone.encoder()([clip("a", num_views=4), clip("b", 1, num_views=4)])
    for _ in range(2):
        terms = model(batch)
        total_loss(terms, {term.name: term.count for term in terms}).backward()
        optimizer.step()
        optimizer.zero_grad()
    # In evaluation, as the export is compared: LoRA's dropout is zero here, but modes are kept anyway.
    report = export_model(model.eval(), tmp_path / "export", recipe_hash="x", check=batch)
    assert report.is_stock and report.identical_logits and not report.extra_keys
    stock, processor = load_export(tmp_path / "export")
    untrained = cls.load(cls.Config(frames=frames)).hf
    assert type(stock) is cls.model_class
    assert stock.state_dict().keys() == untrained.state_dict().keys()
    assert stock.num_parameters() == untrained.num_parameters() == report.parameters
    changed = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(stock.state_dict()[changed], untrained.state_dict()[changed])
    reloaded = cls(stock, processor, cls.Config(frames=frames))
    again = reloaded.encoder()([clip("a", num_views=4), clip("b", 1, num_views=4)])
    assert all(torch.equal(again.inputs[name], value) for name, value in batch.inputs.items())


@pytest.mark.parametrize(("kind", "frames"), TRAINED)
def test_checkpointing_keeps_gasps_gradients(kind, frames):
    def gradients(how):
        backbone = tiny_backbone(kind=kind, frames=frames)
        torch.manual_seed(4)
        inject(backbone.hf, backbone.decoder_layers, LoraOptions(rank=2, alpha=4))
        with torch.no_grad():
            for name, p in backbone.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.1)
        model = SpatialModel(backbone, {"gasp": Gasp(Gasp.Config(embedding_dim=8, anchors=[3]))})
        backbone.set_gradient_checkpointing(how)
        terms = model.train()(backbone.encoder()([clip("a", num_views=4)]))
        total_loss(terms, {term.name: term.count for term in terms}).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    wanted = gradients("none")
    assert all(grad is not None and grad.any() for name, grad in wanted.items() if "lora" in name)
    for how in ("nonreentrant", "reentrant"):
        found = gradients(how)
        for name, grad in wanted.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6, msg=f"{how} {name}")


@pytest.mark.parametrize(("kind", "frames"), TRAINED)
def test_the_probe_runs(kind, frames):
    backbone = make(kind, frames)
    clips = [plane_clip("a", num_views=4), plane_clip("b", num_views=4, size=(64, 96))]
    for rope in (True, False):
        config = ProbeConfig(val_clips=1, test_clips=1, rope=rope, anchor_grid=4)
        result = probe(backbone, backbone.encoder(), clips, config)
        assert len(result.pck_by_layer) == backbone.num_layers


@pytest.mark.parametrize("kind", KINDS)
def test_rotary_tables_are_the_models_own(kind):
    backbone = tiny_backbone(kind=kind).eval()
    clips = [plane_clip("a", questions=QUESTIONS), clip("b", 1, num_views=2)]
    for batch in (backbone.encoder()(clips), backbone.encoder()([text_only()])):
        seen = {}
        hook = backbone.attention_modules()[0].register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.update(kwargs), with_kwargs=True
        )
        with torch.no_grad():
            backbone(batch)
        hook.remove()
        ours, wanted = backbone.rotary(batch), seen["position_embeddings"]
        for mine, theirs in zip(ours, wanted, strict=True):
            if mine.ndim == theirs.ndim:
                assert torch.equal(mine, theirs.expand_as(mine))
            else:  # older releases: the three axes apart, ours joined by section
                assert mine.shape == theirs.shape[1:]


@pytest.mark.parametrize(("kind", "frames"), TRAINED)
def test_an_edit_reaches_visual_tokens_only_in_the_maps_order(kind, frames):
    backbone = make(kind, frames)
    batch, first = padded(backbone, frames), residual_in(0)
    seen = []
    with torch.no_grad():
        stock = backbone(batch, tap_sites=[first])
        same = backbone(batch, edits={VISUAL_TOKENS: [lambda t: (seen.append(t), t)[1]]})
        edited = backbone(batch, tap_sites=[first], edits={VISUAL_TOKENS: [lambda t: 2 * t]})
    assert torch.equal(same.hidden, stock.hidden)
    visual = backbone.visual_mask(batch.inputs)
    before, after = stock.taps[first], edited.taps[first]
    assert torch.equal(after[~visual], before[~visual])
    torch.testing.assert_close(after[visual], 2 * before[visual])
    assert torch.equal(seen[0], before[visual])
    with pytest.raises(ValueError, match=r"no edit site 'residual_out\[0\]'; choose from visual"):
        backbone(batch, edits={residual_out(0): [lambda t: t]})


# --- loading, planning, adapters --------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nano_is_found_offline_and_written_whole(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path))
    cls = BACKBONES.get(kind)
    first = cls.load(cls.Config())
    if kind != "qwen2_5_vl":  # shipped, trained
        assert [p.name.startswith(kind) for p in (tmp_path / "nano").iterdir()] == [True]
        again = cls.load(cls.Config())
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        twins = twin.model(kind, first.processor.tokenizer).state_dict()
        assert all(torch.equal(twins[name], t) for name, t in first.hf.state_dict().items())
    assert AutoProcessor.from_pretrained(cls.nano_folder()).chat_template


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2, alpha=4)])
def test_on_meta_is_what_load_would_train(kind, lora):
    cls = BACKBONES.get(kind)
    config = cls.Config(freeze_vision=True, dtype="bfloat16", lora=lora)
    loaded = cls.load(config)
    planned = cls.on_meta(AutoConfig.from_pretrained(cls.nano_folder()), config)
    wanted = {n: (p.shape, p.dtype, p.requires_grad) for n, p in loaded.named_parameters()}
    assert wanted == {n: (p.shape, p.dtype, p.requires_grad) for n, p in planned.named_parameters()}
    assert all(p.is_meta for p in planned.parameters())
    inside = {id(p) for module in planned.vision for p in module.parameters()}
    assert inside and not any(p.requires_grad for p in planned.parameters() if id(p) in inside)
    outside = {n for n, p in planned.named_parameters() if id(p) not in inside}
    decoder = ("hf.model.language_model.", "hf.lm_head.")
    assert {n for n in outside if not n.startswith(decoder)} <= {"hf.model.image_newline"}
    blocks = {type(b).__name__ for b in planned.blocks()}
    assert {type(m).__name__ for m in planned.modules()} >= blocks
    assert len(blocks) == 2
    with pytest.raises(ValueError, match="no processor"):
        planned.encoder()


@pytest.mark.parametrize("kind", KINDS)
def test_lora_targets_are_exactly_these(kind):
    backbone = tiny_backbone(kind=kind)
    parts = {
        "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "mlp": ("gate_proj", "up_proj", "down_proj"),
    }
    for roles, names in ((("attention",), ["self_attn"]), (("attention", "mlp"), list(parts))):
        assert sorted(backbone.lora_targets(roles)) == sorted(
            f"model.language_model.layers.{layer}.{part}.{leaf}"
            for layer in range(backbone.num_layers)
            for part in names
            for leaf in parts[part]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_max_pixels_bounds_a_frame_or_is_refused(kind):
    cls = BACKBONES.get(kind)
    config = cls.Config(max_pixels=64 * 64)
    if kind.startswith("llava"):
        with pytest.raises(ValueError, match="max_pixels=4096 has no effect"):
            cls.load(config)
        return
    for frames in ("images", "video"):
        backbone = cls.load(dataclasses.replace(config, frames=frames))
        batch = backbone.encoder()([clip("a", num_views=4, size=(128, 128))])
        assert batch.token_map.grid[0].tolist() == [[8, 8]] * (4 if frames == "images" else 2)


def test_questions_packed_behind_a_prefix_need_a_mask():
    backbone = tiny_backbone(kind="llava_next_video")
    backbone.hf.config._attn_implementation = "flash_attention_2"
    batch = backbone.encoder()([plane_clip("a", questions=QUESTIONS)])
    with pytest.raises(ValueError, match="attention=flash_attention_2 does not take"):
        backbone(batch)
