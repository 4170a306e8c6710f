"""What the expert computes, who can change what, and where its features come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from experts import (
    attention_outputs,
    backward,
    encodings,
    model,
    prior,
    shake,
    text_only,
    without_geometry,
)
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

from spatialprior.core.clip import MultiViewClip
from spatialprior.core.sites import RESERVED_TOKENS, residual_in, residual_out
from spatialprior.geometry.scene import ScenePrediction
from spatialprior.model import SpatialModel
from spatialprior.priors.geometry_expert.injector import GeometryTokens
from spatialprior.testing import plane_clip, tiny_backbone

pytestmark = pytest.mark.usefixtures("features")

PLAIN = {"qk_norm": False, "layer_scale": None}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float64 throughout: norms and heads, which otherwise compute in float32, stay in the dtype they get."""

    def norm(self: nn.Module, states: Tensor) -> Tensor:
        mean = states.square().mean(-1, keepdim=True)
        return self.weight * states * torch.rsqrt(mean + self.variance_epsilon)

    monkeypatch.setattr(Qwen2_5_VLRMSNorm, "forward", norm)
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def clips() -> list[MultiViewClip]:
    return [plane_clip("a", num_views=3), plane_clip("b", num_views=2, size=(64, 96))]


# --- what the expert computes -------------------------------------------------------------


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    "form", [{"init": "copy"}, {"form": "lora", "rank": 4, "alpha": 8}], ids=["copy", "lora"]
)
def test_an_expert_with_the_backbones_weights_is_the_backbone_under_the_same_mask(form):
    whole = model(stage="vg_ce", expert={**form, **PLAIN}).double()
    batch = whole.backbone.encoder()([*clips(), text_only()])
    edits = whole.edits(whole.prepare(batch))
    sites = [residual_out(layer) for layer in range(whole.backbone.num_layers)]
    routed = whole.backbone(batch, tap_sites=sites, edits=edits)
    whole.backbone.unroute()
    base = whole.backbone(batch, tap_sites=sites, edits=edits)
    assert torch.allclose(routed.hidden, base.hidden, rtol=0, atol=1e-9)
    for site in sites:
        assert torch.allclose(routed.taps[site], base.taps[site], rtol=0, atol=1e-9), site
    # The mask matters, so that the two agree on something: causal tokens alone are others.
    causal = dataclasses.replace(batch, reserved=None)
    other = whole.backbone(causal, edits={}).hidden
    assert not torch.allclose(other, base.hidden, atol=1e-2)


def test_a_narrow_expert_leaves_the_channels_behind_its_width_at_zero():
    whole = model(stage="vg_ce", expert={"form": "narrow", "width": 24, "mlp_width": 40})
    shake(whole.priors)
    batch = whole.backbone.encoder()(clips())
    sites = [residual_in(0)] + [residual_out(i) for i in range(whole.backbone.num_layers)]
    out = whole.backbone(batch, tap_sites=sites, edits=whole.edits(whole.prepare(batch)))
    for tokens in (*out.taps.values(), out.hidden):
        own, others = tokens[batch.reserved.patches], tokens[batch.visual]
        assert not own[:, 24:].any()
        assert own[:, :24].any(0).all() and others[:, 24:].any(0).all()


# --- order of the views -------------------------------------------------------------------


def predicted(whole: SpatialModel, clip: MultiViewClip) -> ScenePrediction:
    return whole.predict(whole.backbone.encoder()([clip]))["expert"][0]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("stage", ["geometry", "vg_ce"])
@pytest.mark.parametrize(
    ("attention", "positions", "equal"),
    [
        ("global", "shared", True),
        ("mixed", "shared", True),
        ("frame", "shared", True),
        ("global", "sequential", False),
        ("frame_causal", "shared", False),
    ],
)
def test_the_order_of_views(stage, attention, positions, equal):
    whole = model(stage=stage, attention=attention, positions=positions)
    shake(whole.priors, 0.2)
    whole.double()
    clip, order = plane_clip("a", num_views=4), torch.tensor([2, 0, 3, 1])
    names = ("images", "depth", "depth_valid", "intrinsics", "world_to_cam")
    turned = {name: getattr(clip, name)[order] for name in names}
    before, after = predicted(whole, clip), predicted(whole, dataclasses.replace(clip, **turned))
    points, moved = torch.stack(before.points_cam)[order], torch.stack(after.points_cam)
    poses, turned_poses = before.cam_to_world[order], after.cam_to_world
    assert points.dtype == poses.dtype == torch.float64
    assert (points[0] - points[1]).abs().max() > 1e-3, "views would be exchangeable anyway"
    differences = [(points - moved).abs().max(), (poses - turned_poses).abs().max()]
    if equal:
        assert max(differences) < 1e-9, differences
    else:
        assert min(differences) > 1e-6, differences


@pytest.mark.parametrize(
    ("attention", "changed"),
    [
        ("global", [True, True, True]),
        ("frame", [False, True, False]),
        ("frame_causal", [False, True, True]),
    ],
)
def test_whose_geometry_a_view_changes(attention, changed):
    whole = model(attention=attention)
    shake(whole.priors, 0.2)
    clip = plane_clip("a", num_views=3)
    images = clip.images.clone()
    images[1] = 255 - images[1]
    before = predicted(whole, clip)
    after = predicted(whole, dataclasses.replace(clip, images=images))
    for view, expected in enumerate(changed):
        far = (before.points_cam[view] - after.points_cam[view]).abs().max()
        assert bool(far > 1e-5) == expected, (view, far)


# --- where features come from -------------------------------------------------------------


def test_features_of_a_frozen_encoder_are_kept(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path))
    calls = encodings(monkeypatch)
    first = model()
    batch = first.backbone.encoder()(clips())
    made = first.prepare(batch)["expert"]
    assert sum(calls) == 5
    for again in (first, model()):  # another model has the same files
        kept = again.prepare(batch)["expert"]
        assert sum(calls) == 5
        assert torch.equal(kept.features, made.features)


def test_features_of_an_encoder_that_trains_are_not(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path))
    calls = encodings(monkeypatch)
    whole = model(train_encoder=True)
    batch = whole.backbone.encoder()(clips())
    for total in (5, 10):
        context = whole.prepare(batch)
        assert context["expert"].features is None
        whole(batch, context)
        assert sum(calls) == total
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_both_ways_give_the_same_tokens_for_views_of_unlike_sizes():
    views = tuple(
        (torch.arange(3 * h * w) * 7 % 256).view(3, h, w).to(torch.uint8)
        for h, w in ((64, 64), (64, 128), (64, 64), (128, 64))
    )
    odd = dataclasses.replace(
        without_geometry(plane_clip("odd", num_views=1)), images=views, frame_ids=(0, 1, 2, 3)
    )
    fed = []
    for own in (False, True):
        whole = model(train_encoder=own)
        batch = whole.backbone.encoder()([odd, text_only(), plane_clip("b", num_views=1)])
        tokens = torch.zeros(int(batch.reserved.patches.sum()), whole.backbone.hidden_size)
        expert = whole.injectors["expert"]
        expert.projector.load_state_dict(model().injectors["expert"].projector.state_dict())
        fed.append(expert.edit(RESERVED_TOKENS, tokens, expert.prepare(batch)))
    assert fed[0].shape == fed[1].shape and fed[0].any(1).all()
    assert torch.allclose(*fed, atol=1e-5)


@pytest.mark.parametrize("own", [False, True], ids=["frozen", "trained"])
def test_every_token_shows_its_own_patch(own):
    """One patch coloured: its token's embedding changes and no other, in every view of every clip."""
    whole = model(train_encoder=own, cache_gb=0.0)
    expert = whole.injectors["expert"]
    # Patches of this encoder see each other by attention alone.
    with torch.no_grad():
        for part in attention_outputs(expert.vision if own else expert.encoder.module):
            part.weight.zero_()
    side = expert.patch
    # Sizes that the encoder takes as they are, not resampled; rows and columns differ in number.
    grids = [(3, 5), (4, 4)]
    sources = [
        plane_clip("a", num_views=2, size=(side * 3, side * 5)),
        plane_clip("b", num_views=1, size=(side * 4, side * 4)),
    ]
    encoder = whole.backbone.encoder()

    def embedded(given: list[MultiViewClip]) -> tuple[Tensor, GeometryTokens]:
        batch = encoder(given)
        context = whole.prepare(batch)
        with torch.no_grad():
            out = whole.backbone(batch, tap_sites=[residual_in(0)], edits=whole.edits(context))
        return out.taps[residual_in(0)], context["expert"]

    plain, context = embedded(sources)
    layout = context.reserved.token_map
    for b, (rows, cols) in enumerate(grids):
        for v in range(sources[b].num_views):
            assert layout.grid[b, v].tolist() == [rows, cols]
            for cell in range(rows * cols):
                row, col = divmod(cell, cols)
                images = sources[b].images.clone()
                patch = images[v, :, row * side :, col * side :][:, :side, :side]
                patch.copy_(255 - patch)
                given = list(sources)
                given[b] = dataclasses.replace(sources[b], images=images)
                changed = (embedded(given)[0] != plain).any(-1).nonzero().tolist()
                assert changed == [[b, int(layout.index[b, v, cell])]], (b, v, cell)


# --- batches of all kinds -----------------------------------------------------------------


@pytest.mark.parametrize("stage", ["geometry", "vg_ce"])
def test_clips_without_views_or_geometry_are_passed_over(stage):
    whole = model(stage=stage)
    shake(whole.priors)
    encoder, scored = whole.backbone.encoder(), plane_clip("a", num_views=2)
    alone = {term.name: term for term in whole(encoder([scored]))}
    beside = [text_only(), scored, without_geometry(plane_clip("b"))]
    together = {term.name: term for term in whole(encoder(beside))}
    assert alone.keys() == together.keys()
    for name in (name for name in alone if name.startswith("expert/")):
        assert alone[name].count == together[name].count > 0, name
        assert torch.allclose(alone[name].sum, together[name].sum, rtol=1e-4), name
    scenes = whole.predict(encoder(beside))["expert"]
    assert [len(scene.points_cam) for scene in scenes] == [0, 2, 3]
    assert [len(scene.cam_to_world) for scene in scenes] == [0, 2, 3]


def test_text_alone_is_stock():
    whole = model(stage="vg_ce")
    counts = backward(whole, whole.backbone.encoder()([text_only()]))
    assert counts.pop("language") > 0 and not any(counts.values())
    assert all(p.grad is not None and not p.grad.any() for p in whole.priors.parameters())
    stock = tiny_backbone().eval()
    shake(stock.decoder, 0.05)
    routed = whole.eval().serve()(whole.backbone.encoder()([text_only()])).hidden
    assert torch.equal(routed, stock(stock.encoder()([text_only()])).hidden)


@pytest.mark.parametrize("train_encoder", [False, True])
@torch.no_grad()
def test_zeros_at_inference_hide_the_views_from_the_expert_and_only_then(train_encoder):
    own = {"stage": "vg_ce", "train_encoder": train_encoder}
    whole, zeroed = model(**own), model(**own, at_inference="zero")
    batch = whole.backbone.encoder()([clips()[0]])
    images = torch.flip(clips()[0].images, (0,))
    other = whole.backbone.encoder()([dataclasses.replace(clips()[0], images=images)])

    def reserved(owner: SpatialModel, of) -> Tensor:
        expert = owner.injectors["expert"]
        tokens = torch.zeros(int(of.reserved.patches.sum()), owner.backbone.hidden_size)
        return expert.edit(RESERVED_TOKENS, tokens, expert.prepare(of))

    assert not torch.allclose(reserved(whole, batch), reserved(whole, other))
    assert torch.equal(reserved(zeroed, batch), reserved(zeroed, other))
    whole.train(), zeroed.train()
    assert torch.equal(reserved(whole, batch), reserved(zeroed, batch))


def test_one_view():
    whole = model(stage="vg_ce")
    counts = backward(whole, whole.backbone.encoder()([plane_clip("a", num_views=1)]))
    side = 4 * whole.injectors["expert"].patch
    assert counts["expert/points"] == counts["expert/global_points"] == 3 * side**2
    assert counts["expert/rotation"] == counts["expert/translation"] == 0
    grads = [p.grad for p in whole.priors.parameters()]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)


def test_bad_settings():
    for settings, message in (
        ({"expert": {"form": "lora", "init": "copy"}}, "expert.form=full, not with lora"),
        ({"cache_gb": -1}, "must not be negative"),
        ({"encoder": {"kind": "dinov2_regs"}}, "did you mean dinov2_reg"),
    ):
        with pytest.raises(ValueError, match=message):
            prior(**settings)
    with pytest.raises(ValueError, match=r"expert\.width=65: this decoder is only 64 wide"):
        model(expert={"form": "narrow", "width": 65})
