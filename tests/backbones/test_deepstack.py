"""Qwen3-VL's DeepStack: which side of the addition a tap reads, and what an edit covers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from spatialprior.core.injector import Needs, PriorInjector
from spatialprior.core.sites import VISUAL_TOKENS, deepstack, residual_in, residual_out
from spatialprior.model import SpatialModel
from spatialprior.testing import plane_clip, tiny_backbone


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(kind="qwen3_vl").eval()


def injected(backbone, batch, tap_sites=(), **edits):
    """A pass, and the features that DeepStack was given."""
    seen = {}
    hook = backbone.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        output = backbone(batch, tap_sites=tap_sites, **edits)
    hook.remove()
    return output, seen["deepstack_visual_embeds"]


@pytest.mark.parametrize("frames", ["images", "video"])
def test_out_is_before_the_addition_and_the_next_in_after(frames):
    backbone = tiny_backbone(kind="qwen3_vl", frames=frames).eval()
    batch = backbone.encoder()([plane_clip("a", num_views=4), plane_clip("b", num_views=3)])
    visual = backbone.visual_mask(batch.inputs)
    sites = [site(i) for i in range(4) for site in (residual_in, residual_out)]
    output, features = injected(backbone, batch, sites)
    assert len(features) == 2 < backbone.num_layers
    for layer in range(3):
        before, after = output.taps[residual_out(layer)], output.taps[residual_in(layer + 1)]
        assert torch.equal(before[~visual], after[~visual])
        if layer < len(features):
            assert features[layer].abs().max() > 0
            assert torch.equal(before[visual] + features[layer], after[visual])
        else:
            assert torch.equal(before, after)


def test_an_edit_covers_the_embeddings_or_what_it_names_beside_them(backbone):
    batch = backbone.encoder()([plane_clip("a", num_views=2)])
    visual = backbone.visual_mask(batch.inputs)
    sites = [residual_in(0), residual_out(0), residual_in(1), residual_out(1), residual_in(2)]
    stock, features = injected(backbone, batch, sites)

    def added(output, layer):
        return (output.taps[residual_in(layer + 1)] - output.taps[residual_out(layer)])[visual]

    only, same = injected(backbone, batch, sites, edits={VISUAL_TOKENS: [torch.zeros_like]})
    assert not only.taps[residual_in(0)][visual].any()
    assert all(torch.equal(a, b) for a, b in zip(same, features, strict=True))
    torch.testing.assert_close(added(only, 0), features[0], rtol=1e-4, atol=1e-5)

    chain = [lambda t: t + 1, lambda t: 2 * t]
    second, _ = injected(backbone, batch, sites, edits={deepstack(1): chain})
    assert torch.equal(second.taps[residual_in(1)], stock.taps[residual_in(1)])
    torch.testing.assert_close(added(second, 1), 2 * (features[1] + 1), rtol=1e-4, atol=1e-4)

    everything = {site: [torch.zeros_like] for site in backbone.edit_sites}
    none, _ = injected(backbone, batch, sites, edits=everything)
    assert torch.equal(none.taps[residual_out(0)], none.taps[residual_in(1)])
    assert torch.equal(none.taps[residual_out(1)], none.taps[residual_in(2)])
    other = plane_clip("a", num_views=2)
    blank = dataclasses.replace(other, images=torch.zeros_like(other.images))
    unseen, _ = injected(backbone, backbone.encoder()([blank]), sites, edits=everything)
    assert torch.equal(unseen.hidden, none.hidden)  # nothing of the images is left
    with torch.no_grad():
        some = backbone(backbone.encoder()([blank]), edits={VISUAL_TOKENS: [torch.zeros_like]})
    assert not torch.equal(some.hidden, only.hidden)  # by DeepStack they still show


class Scale(PriorInjector):
    """Multiplies all that the decoder sees of an image."""

    identity_at_attach = False

    @dataclasses.dataclass
    class Config:
        deep: bool = True

    def needs(self, num_layers):
        return Needs(
            edits=(VISUAL_TOKENS, *((deepstack(0), deepstack(1)) if self.config.deep else ()))
        )

    def attach(self, backbone):
        self.factor = torch.nn.Parameter(torch.ones(backbone.hidden_size))

    def edit(self, site, tokens, context):
        return tokens * self.factor


def test_needs_say_it_and_a_family_without_the_site_says_so(backbone):
    assert backbone.edit_sites == (
        "visual_tokens",
        "reserved_tokens",
        "deepstack[0]",
        "deepstack[1]",
    )
    clips = [plane_clip("a", num_views=2)]
    model = SpatialModel(tiny_backbone(kind="qwen3_vl"), {"scale": Scale(Scale.Config())})
    model(model.backbone.encoder()(clips))[0].sum.backward()
    assert model.priors["scale"].factor.grad.any()
    for kind in ("qwen2_5_vl", "llava_onevision"):
        with pytest.raises(
            ValueError, match=r"has no edit site 'deepstack\[0\]'; choose from visual"
        ):
            SpatialModel(tiny_backbone(kind=kind), {"scale": Scale(Scale.Config())})
        other = SpatialModel(tiny_backbone(kind=kind), {"scale": Scale(Scale.Config(deep=False))})
        assert other(other.backbone.encoder()(clips))
    with pytest.raises(
        ValueError,
        match=r"deepstack\[2\]'; choose from visual_tokens, reserved_tokens, deepstack\[0\]",
    ):
        backbone(backbone.encoder()(clips), edits={deepstack(2): [lambda t: t]})


def test_text_alone_leaves_deepstack_edits_nothing_to_do(backbone):
    clip = plane_clip("a", num_views=1)
    text = dataclasses.replace(
        clip,
        images=(),
        frame_ids=(),
        depth=None,
        depth_valid=None,
        intrinsics=None,
        world_to_cam=None,
    )
    batch = backbone.encoder()([text])
    with torch.no_grad():
        stock = backbone(batch).hidden
        edits = {site: [lambda t: t + 1] for site in backbone.edit_sites}
        assert torch.equal(backbone(batch, edits=edits).hidden, stock)
