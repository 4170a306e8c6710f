"""The injector: what is edited, what is fed, what the controls feed instead, and what never trains."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from colours import asked, model, nudge, prior
from torch.nn import functional as F

from spatialprior.core.clip import MultiViewClip
from spatialprior.core.terms import total_loss
from spatialprior.eval.evaluator import load_exported
from spatialprior.export import export_model, load_model
from spatialprior.features.encoder import EncoderConfig
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.priors.vega3d import sources
from spatialprior.priors.vega3d.injector import Vega3d
from spatialprior.testing import tiny_backbone

pytestmark = pytest.mark.usefixtures("colours")


def test_every_token_gets_the_features_of_its_own_pixels():
    whole = model()
    clips = [asked("a", num_views=2), asked("b", num_views=3, size=(48, 96))]
    batch = whole.backbone.encoder()(clips)
    context = whole.injectors["vega3d"].prepare(batch)
    assert len(context.rows) == int(batch.visual.sum()) == int(batch.token_map.valid.sum())
    row = 0
    for b, clip in enumerate(clips):
        for v in range(clip.num_views):
            rows, cols = batch.token_map.grid[b, v].tolist()
            mean = F.adaptive_avg_pool2d(clip.images[v].float() / 255, (rows, cols))
            found = context.features[row : row + rows * cols, :3].T.view(3, rows, cols)
            # The encoder's own input is another size: colours agree to what resampling costs.
            assert torch.corrcoef(torch.stack([mean.flatten(), found.flatten()]))[0, 1] > 0.9
            row += rows * cols


def test_frozen_weights_stay_and_are_in_no_state_dict():
    whole = model(fusion={"form": "residual"})
    injector = whole.injectors["vega3d"]
    before = injector.encoder.checksum()
    assert not any("encoder" in name for name in whole.state_dict())
    held = {id(p) for p in injector.encoder.module.parameters()}
    assert not held & {id(p) for p in whole.parameters()}
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    for _ in range(2):
        terms = whole(whole.backbone.encoder()([asked()]))
        total_loss(terms, {t.name: t.count for t in terms}).backward()
        optimizer.step()
    assert injector.encoder.checksum() == before == prior().encoder.checksum()
    assert all(p.grad is None for p in injector.encoder.module.parameters())


def test_gradients_reach_projector_norms_and_gate_only_where_the_backbone_is_frozen():
    whole = model(normalise=True)
    nudge(whole.priors)
    whole.backbone.requires_grad_(False)
    terms = whole(whole.backbone.encoder()([asked()]))
    total_loss(terms, {t.name: t.count for t in terms}).backward()
    reached = {n for n, p in whole.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {n for n, _ in whole.named_parameters() if n.startswith("priors.")}
    parts = {name.split(".")[3] if "fusion" in name else "norm" for name in reached}
    assert parts == {"projector", "semantic_norm", "generative_norm", "gate", "norm"}


@pytest.mark.parametrize(
    "kind", ["residual", "add", "weighted", "channel_concat", "cross_attention"]
)
def test_identity_at_attach(kind):
    fusion = {"form": "residual"} if kind == "residual" else {"kind": kind}
    whole = model(fusion=fusion)
    assert whole.injectors["vega3d"].identity_at_attach
    batch = whole.backbone.encoder()([asked()])
    edits = whole.edits(whole.prepare(batch))
    assert torch.equal(
        whole.backbone(batch, edits=edits).hidden, whole.backbone(batch, edits={}).hidden
    )


def test_sequence_concat_adds_tokens_and_leaves_the_others():
    whole = model(fusion={"kind": "sequence_concat"})
    encoder = whole.backbone.encoder()
    clips = [asked("a", num_views=2), asked("b", num_views=3)]
    batch = encoder(clips)
    assert batch.echo is not None
    assert int(batch.visual.sum()) == 2 * int(batch.token_map.valid.sum())
    assert batch.clips[0].num_views == 2 and encoder.length(clips[0]) == int(
        batch.inputs["attention_mask"][0].sum()
    )
    context = whole.injectors["vega3d"].prepare(batch)
    tokens = torch.randn(int(batch.visual.sum()), whole.backbone.hidden_size)
    edited = whole.injectors["vega3d"].edit("visual_tokens", tokens, context)
    own = batch.site_rows(batch.token_map)[batch.token_map.valid]
    added = batch.site_rows(batch.echo)[batch.echo.valid]
    assert torch.equal(edited[own], tokens[own])
    assert (edited[added] != tokens[added]).any(1).all()
    assert not set(own.tolist()) & set(added.tolist())
    # The views stand where they stood without the copies; those come right behind them.
    plain = tiny_backbone().encoder()(clips)
    assert torch.equal(plain.token_map.index[0], batch.token_map.index[0])
    assert int(batch.echo.index[0][batch.echo.valid[0]].min()) > int(
        batch.token_map.index[0][batch.token_map.valid[0]].max()
    )
    whole.detach()
    assert whole.backbone.encoder()(clips).echo is None


def test_controls_feed_something_else_into_the_same_modules():
    batch = model().backbone.encoder()([asked("a"), asked("b", num_views=2)])
    arms = {
        "encoder": {},
        "random_weights": {"encoder": {"weights": "random", "seed": 5}},
        "noise": {"source": "noise"},
        "own_vision": {"source": "own_vision"},
    }
    sizes, fed = set(), {}
    for name, settings in arms.items():
        whole = model(**settings)
        sizes.add(sum(p.numel() for p in whole.priors.parameters()))
        fed[name] = whole.injectors["vega3d"].prepare(batch).features
        again = model(**settings).injectors["vega3d"].prepare(batch).features
        assert fed[name] is None or torch.equal(fed[name], again), "drawn anew"
    assert len(sizes) == 1, "unequal capacity"
    assert fed["own_vision"] is None
    assert not torch.equal(fed["encoder"], fed["random_weights"])
    assert abs(float(fed["noise"].mean())) < 0.05 and abs(float(fed["noise"].std()) - 1) < 0.05
    # Noise belongs to a frame: the same one in another batch gets the same.
    other = model(source="noise")
    alone = other.injectors["vega3d"].prepare(other.backbone.encoder()([asked("b", num_views=2)]))
    assert torch.equal(alone.features, fed["noise"][-len(alone.features) :])


def test_own_vision_feeds_the_tokens_but_sends_no_gradient_there():
    whole = model(source="own_vision", fusion={"kind": "only"})
    tokens = torch.randn(192, whole.backbone.hidden_size, requires_grad=True)
    batch = whole.backbone.encoder()([asked(num_views=3)])
    edited = whole.injectors["vega3d"].edit(
        "visual_tokens", tokens, whole.injectors["vega3d"].prepare(batch)
    )
    assert edited.std() > 0
    edited.sum().backward()
    assert tokens.grad is None or not tokens.grad.any()


def test_substitutes_at_inference():
    clips = [asked("a"), asked("b", num_views=3)]
    clips[1] = dataclasses.replace(clips[1], images=255 - clips[1].images)
    batch = model().backbone.encoder()(clips)
    found = {
        name: model(at_inference=name).eval().injectors["vega3d"].prepare(batch)
        for name in ("none", "zero", "shuffled", "other_scene")
    }
    plain = found["none"].features
    half = len(plain) // 2
    assert not found["zero"].features.any()
    for view in plain.split(64), found["shuffled"].features.split(64):
        assert len(view) == 6
    for before, after in zip(plain.split(64), found["shuffled"].features.split(64), strict=True):
        assert not torch.equal(before, after)
        assert torch.equal(before.sort(0).values, after.sort(0).values)
    other = found["other_scene"].features
    assert torch.equal(other[:half], plain[half:]) and torch.equal(other[half:], plain[:half])
    training = model(at_inference="zero").train().injectors["vega3d"].prepare(batch)
    assert torch.equal(training.features, plain), "it is for inference only"
    alone = model(at_inference="other_scene").eval()
    with pytest.raises(ValueError, match=r"two scenes.*eval\.batch"):
        alone.prepare(alone.backbone.encoder()([clips[0]]))


def laid_out(*clips):
    """A batch of them, with views of every clip's own grid."""
    return model().backbone.encoder()([*clips])


def negative(clip: MultiViewClip, clip_id: str) -> MultiViewClip:
    return dataclasses.replace(clip, clip_id=clip_id, source_id=clip_id, images=255 - clip.images)


@pytest.mark.parametrize("size", [(40, 24), (24, 24), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_of_a_view_is_the_same_beside_larger_ones(size, channels):
    small = asked("small", num_views=2, size=size)
    alone, together = laid_out(small), laid_out(asked("large", size=(96, 112)), small)
    cells = int(alone.token_map.grid[0, 0].prod())
    assert cells < together.token_map.index.shape[-1]
    found = sources.noise(together, channels, 5)[1]
    assert torch.equal(found[:2, :cells], sources.noise(alone, channels, 5)[0])
    assert not found[:2, cells:].any() and not found[2:].any()
    assert not torch.equal(found, sources.noise(together, channels, 6)[1])


@pytest.mark.parametrize("told", [True, False])
def test_another_scene_gives_views_of_the_same_grid_alone(told):
    """Grids of as many tokens, but of unlike shape, are no donors, whether or not the grid is told."""
    wide, tall = asked("wide", num_views=3, size=(48, 96)), asked("tall", size=(96, 48))

    def handed(other, *clips):
        batch = laid_out(*clips)
        layout = batch.token_map
        values = torch.rand(*layout.valid.shape, 2) * layout.valid.unsqueeze(-1)
        grid = (layout.grid,) if told else ()
        return values, *other(values, layout.valid, batch.clips, *grid)

    assert len({tuple(laid_out(c).token_map.grid[0, 0].tolist()) for c in (wide, tall)}) == 2
    with pytest.raises(ValueError, match=r"clip wide .*two scenes.*eval\.batch") as error:
        handed(sources.OtherScene(), wide, tall)
    assert "\n" not in str(error.value)
    # The tall clip between them is passed over; two views take turns.
    pair = negative(asked("x", num_views=2, size=(48, 96)), "pair")
    other = sources.OtherScene()
    values, found, seen = handed(other, wide, tall, pair, negative(tall, "tall too"))
    assert torch.equal(found[0], values[2, [0, 1, 0]]) and torch.equal(found[2, :2], values[0, :2])
    assert torch.equal(found[1], values[3]) and torch.equal(found[3], values[1])
    assert bool(seen.any(-1).all(-1)[[0, 1, 3]].all()) and not seen[2, 2].any()
    # What came before plays no part where the batch itself has a donor.
    again = handed(other, wide, pair)
    assert torch.equal(again[1][0], again[0][1, [0, 1, 0]])
    # Where it has none, the latest clip of another scene before it gives; a clip without views needs none.
    last = handed(other, dataclasses.replace(wide, clip_id="wide again"), text_only())
    assert torch.equal(last[1][0], again[0][1, [0, 1, 0]]) and not last[1][1].any()


def text_only() -> MultiViewClip:
    return MultiViewClip("text", "t", (), (), questions=asked().questions)


def test_views_of_unlike_size_and_clips_without_views():
    whole = model()
    images = (
        torch.full((3, 64, 64), 9, dtype=torch.uint8),
        torch.full((3, 48, 96), 9, dtype=torch.uint8),
    )
    mixed = MultiViewClip("mixed", "m", images, (0, 1), questions=asked().questions)
    text = text_only()
    terms = whole(whole.backbone.encoder()([mixed, text]))
    assert bool(terms[0].sum.isfinite())
    terms = whole(whole.backbone.encoder()([text]))
    total_loss(terms, {t.name: t.count for t in terms}).backward()
    assert all(p.grad is not None and not p.grad.any() for p in whole.priors.parameters())


def test_export_and_inference_arms(tmp_path):
    whole = model(normalise=True)
    nudge(whole.priors)
    report = export_model(whole, tmp_path / "export", recipe_hash="x")
    assert report.is_stock and report.kept["identical_logits"] and report.kept["changes_logits"]
    assert report.kept["frozen_parameters"] == 12
    loaded = load_model(tmp_path / "export")
    batch = whole.backbone.encoder().prompts([asked("a")])
    wanted = whole.eval().serve()(batch).hidden
    assert torch.equal(loaded.backbone(batch).hidden, wanted)
    changed = dataclasses.replace(whole.injectors["vega3d"].config, at_inference="zero")
    zero = load_exported(
        tmp_path / "export",
        type(loaded.backbone),
        loaded.backbone.settings,
        changes={"vega3d": changed},
    )
    assert not torch.equal(zero(batch).hidden, wanted)
    again = load_model(tmp_path / "export", changes={"vega3d": {"at_inference": "zero"}})
    assert torch.equal(again.backbone(batch).hidden, zero(batch).hidden)


@pytest.mark.parametrize("order", [("gasp", "vega3d"), ("vega3d", "gasp")])
def test_beside_gasp(order):
    made = {"gasp": Gasp(Gasp.Config(embedding_dim=16, anchors=[4])), "vega3d": prior()}
    whole = SpatialModel(tiny_backbone(), {name: made[name] for name in order})
    terms = {t.name: t for t in whole(whole.backbone.encoder()([asked()]))}
    assert set(terms) == {"language", "gasp/corr", "gasp/depth"}
    total_loss(list(terms.values()), {n: t.count for n, t in terms.items()}).backward()
    # GASP reads what VEGA-3D wrote: its losses train the gate too.
    whole.zero_grad()
    terms = {t.name: t for t in whole(whole.backbone.encoder()([asked()]))}
    terms["gasp/corr"].sum.backward()
    gate = whole.injectors["vega3d"].fusion.gate.weight
    assert gate.grad is not None and bool(gate.grad.any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": {"kind": "wan"}}, "did you mean wan_t2v"),
        ({"encoder": {"kind": "colours", "blocks": 3}}, "unknown setting encoder.blocks"),
        ({"encoder": {"size": [64, 64]}}, "encoder has no kind"),
        ({"cache_gb": -1}, "must not be negative"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Vega3d.Config(**{"encoder": {"kind": "colours"}, **settings})


def test_settings_of_an_encoder_come_back_from_json():
    config = Vega3d.Config(encoder={"kind": "colours", "size": [48, 64], "pool": [4, 4]})
    assert Vega3d.Config(**config.to_dict()).to_dict() == config.to_dict()
    assert isinstance(config.encoder.settings, EncoderConfig)
