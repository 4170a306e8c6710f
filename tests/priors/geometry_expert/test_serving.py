"""The trained expert at inference: replies three ways, and what an export brings back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from experts import model, shake, text_only
from torch import Tensor
from torch.nn import functional as F

from spatialprior.backbones.lora import LoraOptions
from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.eval.generate_packed import generate_packed
from spatialprior.export import export_model, load_export, load_model
from spatialprior.geometry.scene import ScenePrediction
from spatialprior.model import SpatialModel
from spatialprior.testing import plane_clip

pytestmark = pytest.mark.usefixtures("features")

TOKENS = 6


def trained(**settings) -> SpatialModel:
    whole = model(**{"stage": "vg_ce", **settings})
    shake(whole.priors, 0.2)
    return whole


def asked() -> list[MultiViewClip]:
    """Unlike numbers and sizes of views, and none: rows of unlike length, padded on the left."""
    question = [("How many chairs are there?", "two")]
    return [
        plane_clip("a", num_views=3, questions=question),
        plane_clip("b", num_views=1, size=(64, 96), questions=[("Is it far?", "yes")]),
        text_only(),
    ]


def with_tokens(batch: ClipBatch, tokens: Tensor) -> ClipBatch:
    """The batch with tokens behind its rows."""
    count = tokens.shape[1]
    inputs = dict(batch.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            inputs[name] = F.pad(inputs[name], (0, count), value=fill)
    assert batch.reserved is not None
    return replace(
        batch,
        inputs=inputs,
        labels=F.pad(batch.labels, (0, count), value=-100),
        visual=F.pad(batch.visual, (0, count)),
        reserved=replace(
            batch.reserved,
            patches=F.pad(batch.reserved.patches, (0, count)),
            view=F.pad(batch.reserved.view, (0, count), value=-1),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "positions"),
    [
        ("qwen2_5_vl", "shared"),
        ("qwen2_5_vl", "sequential"),
        ("qwen3_vl", "shared"),
        ("llava_onevision", "shared"),
    ],
)
@torch.no_grad()
def test_replies_three_ways(kind, positions):
    backbone = trained(kind=kind, positions=positions, stage="ce_only").serve()
    encoder = backbone.encoder()
    batch = encoder.prompts(asked())
    assert not batch.inputs["attention_mask"].all()
    tokens = backbone.generate(batch, TOKENS)
    # One full pass a token.
    stops, ended = torch.tensor(encoder.stop_ids), torch.zeros(3, dtype=torch.bool)
    for step in range(tokens.shape[1]):
        longer = with_tokens(batch, tokens[:, :step])
        found = backbone.logits(backbone(longer).hidden[:, -1]).argmax(-1)
        assert torch.equal(found[~ended], tokens[~ended, step]), step
        ended |= torch.isin(tokens[:, step], stops)
    replies = encoder.decode(tokens)

    def alone(clip: MultiViewClip, question: Question) -> str:
        prompt = encoder.prompts([clip.with_questions((question,))])
        return encoder.decode(backbone.generate(prompt, TOKENS))[0]

    assert [alone(clip, clip.questions[0]) for clip in asked()] == replies
    # All questions of a clip behind one prefix.
    first, second, text = asked()
    packed = [first.with_questions(first.questions + second.questions), second, text]
    apart = [[alone(clip, question) for question in clip.questions] for clip in packed]
    assert generate_packed(backbone, packed, TOKENS) == apart
    # The expert has a say in it: without it the same questions are answered otherwise.
    backbone.editor = None
    assert encoder.decode(backbone.generate(batch, TOKENS))[:2] != replies[:2]


def scenes(whole: SpatialModel, clips: list[MultiViewClip]) -> list[ScenePrediction]:
    return whole.predict(whole.backbone.encoder()(clips))["expert"]


def assert_same(found: list[ScenePrediction], wanted: list[ScenePrediction], share: float) -> None:
    """Points differ by no more than a share of the farthest one; depth is an exponential."""
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        pairs = zip(mine.points_cam, theirs.points_cam, strict=True)
        assert all(float((a - b).abs().max()) <= share * float(b.abs().max()) for a, b in pairs)
        assert torch.allclose(mine.cam_to_world, theirs.cam_to_world, rtol=0, atol=share)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_encoder": True},
        {"expert": {"form": "narrow", "width": 24, "mlp_width": 40}},
        {"expert": {"form": "lora", "rank": 4, "alpha": 8}, "attention": "mixed"},
    ],
    ids=["full", "own_encoder", "narrow", "lora"],
)
def test_an_export_answers_and_predicts_as_the_model_in_memory(settings, tmp_path: Path):
    whole = trained(**settings)
    folder = tmp_path / "export"
    training = {name: p.requires_grad for name, p in whole.named_parameters()}
    before = {name: t.clone() for name, t in whole.state_dict().items()}
    batch = whole.backbone.encoder().prompts(asked())
    with torch.no_grad():
        wanted = whole.serve()(batch).hidden
    replies = whole.backbone.generate(batch, TOKENS)

    report = export_model(whole, folder, recipe_hash="x")
    assert report.is_stock and report.kept is not None
    assert report.kept["identical_logits"] and report.kept["changes_logits"]
    # Against the stock model, which has no geometry tokens: their way through the decoder counts.
    assert report.kept["fusion_flops"] > 0.02 * report.kept["flops"]
    # The model in memory is as it was: weights, what trains, and its path through the decoder.
    assert {name: p.requires_grad for name, p in whole.named_parameters()} == training
    assert all(torch.equal(t, before[name]) for name, t in whole.state_dict().items())
    with torch.no_grad():
        assert torch.equal(whole.backbone(batch).hidden, wanted)

    stock, _ = load_export(folder)
    mine = whole.backbone.hf.state_dict()
    assert stock.state_dict().keys() == mine.keys()
    assert all(torch.equal(t, mine[name]) for name, t in stock.state_dict().items())

    loaded = load_model(folder)
    with torch.no_grad():
        assert torch.equal(loaded.backbone(batch).hidden, wanted)
    again = loaded.backbone.encoder().prompts(asked())
    assert torch.equal(again.inputs["input_ids"], batch.inputs["input_ids"])
    assert torch.equal(loaded.backbone.generate(batch, TOKENS), replies)
    clips = asked()
    assert_same(scenes(loaded, clips), scenes(whole, clips), share=0)
    # For its geometry alone, no view goes through the backbone; that changes nothing but rounding.
    alone = load_model(folder, changes={"expert": {"stage": "geometry"}})
    assert "pixel_values" not in alone.backbone.encoder()(clips).inputs
    assert_same(scenes(alone, clips), scenes(whole, clips), share=1e-5)


def test_an_export_of_answers_alone_still_has_its_geometry(tmp_path: Path):
    """Stage ce_only: the heads do not train, and ship all the same."""
    whole = trained(stage="ce_only")
    assert whole.predict(whole.backbone.encoder()(asked())) == {}
    export_model(whole, tmp_path / "export", recipe_hash="x")
    loaded = load_model(tmp_path / "export", changes={"expert": {"stage": "geometry"}})
    assert_same(scenes(loaded, asked()), scenes(trained(stage="geometry"), asked()), share=0)


def test_adapters_are_merged_beside_the_expert(tmp_path: Path):
    whole = trained(lora=LoraOptions(rank=4, alpha=8), stage="ce_ce")
    with torch.no_grad():
        for name, parameter in whole.backbone.named_parameters():
            if ".lora_B." in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    report = export_model(whole, tmp_path / "export", recipe_hash="x")
    assert report.is_stock and report.kept is not None and report.kept["identical_logits"]
    assert report.adapter_difference is not None and 0 < report.adapter_difference < 1e-2
    batch = whole.backbone.encoder().prompts(asked())
    loaded = load_model(tmp_path / "export").backbone
    with torch.no_grad():
        wanted, found = whole.serve()(batch).hidden, loaded(batch).hidden
        plain = loaded(batch, edits={}).hidden
    real = batch.inputs["attention_mask"] > 0
    assert torch.allclose(found[real], wanted[real], atol=1e-3)  # merging rounds
    assert not torch.allclose(found[real], plain[real], atol=1e-1)
