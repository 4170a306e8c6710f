"""Settings, heads and targets of GASP."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spatialprior.core.sites import residual_out
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.head import CorrespondenceHead
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.testing import plane_clip, tiny_backbone
from spatialprior.train.config import TrainerConfig
from spatialprior.train.optim import make_optimizer

BACKBONE = tiny_backbone()


def attached(**config):
    torch.manual_seed(0)
    prior = Gasp(Gasp.Config(**{"embedding_dim": 16, **config}))
    prior.attach(BACKBONE)
    return prior


def test_svd_start_is_the_leading_part_of_the_query_projection():
    layer, width = 2, 12
    head = attached(embedding_dim=width).heads[str(layer)]
    query = BACKBONE.query_weight(layer).double()
    # The Gram matrix of sqrt(S) V^T is V S V^T, the truncated square root of W_q^T W_q.
    values, vectors = torch.linalg.eigh(query.T @ query)
    order = values.argsort(descending=True)[: 2 * width]
    root = vectors[:, order] @ torch.diag(values[order].sqrt()) @ vectors[:, order].T
    gram = head.expand.weight.double().T @ head.expand.weight.double()
    torch.testing.assert_close(gram, root, rtol=1e-4, atol=1e-5)
    strengths = (head.expand.weight**2).sum(1)
    assert (strengths.diff() <= 1e-5).all()  # leading directions first
    x = torch.randn(5, 2 * width)
    torch.testing.assert_close(head.contract(x), x[:, :width])
    assert not head.expand.bias.any() and not head.contract.bias.any()
    assert torch.equal(head.norm.weight, BACKBONE.input_norm_weight(layer))


def test_svd_start_with_more_room_than_the_projection_has_rank():
    query = torch.randn(10, 64)
    torch.manual_seed(0)
    head = CorrespondenceHead(64, 16, torch.ones(64), query)
    strengths = (head.expand.weight**2).sum(1)
    torch.testing.assert_close(strengths[:10], torch.linalg.svdvals(query), rtol=1e-4, atol=1e-4)
    assert strengths[10:].max() < 0.1 * strengths[9]
    assert strengths[10:].min() > 0  # but alive


def test_random_start_owes_nothing_to_the_projection():
    svd, random = attached(), attached(initialization="random")
    assert not torch.equal(svd.heads["0"].expand.weight, random.heads["0"].expand.weight)
    bound = BACKBONE.hidden_size**-0.5
    assert random.heads["0"].expand.weight.abs().max() <= bound  # torch's own uniform range
    unit = random.heads["3"](torch.randn(7, BACKBONE.hidden_size)).norm(dim=-1)
    torch.testing.assert_close(unit, torch.ones(7))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", [0, 1, 2, 3]), ("every_2", [1, 3]), ("1-2", [1, 2]), ([3, 0], [0, 3])],
)
def test_layers(layers, expected):
    prior = attached(layers=layers)
    assert sorted(prior.heads) == [str(i) for i in expected]
    assert prior.needs(4).taps == tuple(residual_out(i) for i in expected)


def test_terms_do_not_grow_with_the_number_of_layers():
    batch = BACKBONE.encoder()([plane_clip("a")])
    one, two = attached(layers=[1]), attached(layers=[1, 2])
    two.heads["2"].load_state_dict(one.heads["1"].state_dict())
    two.heads["1"].load_state_dict(one.heads["1"].state_dict())
    state = torch.randn(*batch.labels.shape, BACKBONE.hidden_size)
    taps = {residual_out(1): state, residual_out(2): state}
    for a, b in zip(
        one.losses(taps, one.prepare(batch)), two.losses(taps, two.prepare(batch)), strict=True
    ):
        torch.testing.assert_close(a.mean, b.mean)
        assert b.count == 2 * a.count


def test_head_learning_rate_is_a_multiple():
    model = SpatialModel(
        tiny_backbone(), {"gasp": Gasp(Gasp.Config(embedding_dim=16, lr_multiple=4.0))}
    )
    optimizer = make_optimizer(model, TrainerConfig(learning_rate=2e-4))
    rates = {group["owner"]: group["peak_lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": 2e-4, "priors.gasp": pytest.approx(8e-4)}


def test_anchor_grids_and_pairs():
    batch = BACKBONE.encoder()([plane_clip("a", num_views=3), plane_clip("b", num_views=2)])
    context = attached(anchors=[2, 5]).prepare(batch)[0]
    assert context.valid.shape == (6 + 2, 4 + 25)
    assert context.clip.tolist() == [0] * 6 + [1] * 2
    pairs = list(zip(context.view_a.tolist(), context.view_b.tolist(), strict=True))
    assert sorted(pairs[:6]) == [(a, b) for a in range(3) for b in range(3) if a != b]
    context = attached(anchors=[4], pairs="anchor").prepare(batch)[0]
    pairs = list(zip(context.view_a.tolist(), context.view_b.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 1)]


def test_max_anchors_draws_visible_ones_afresh():
    batch = BACKBONE.encoder()([plane_clip("a", num_views=3)])
    every = attached(anchors=[8]).prepare(batch)[0]
    fewest = int(every.valid.sum(1).min())
    assert 10 < fewest < 64  # some are out of view, so the draw has something to avoid
    prior = attached(anchors=[8], max_anchors=10)
    first, second = prior.prepare(batch)[0], prior.prepare(replace(batch, step=1))[0]
    for drawn in (first, second):
        assert drawn.valid.shape == (6, 10)
        assert drawn.valid.float().mean() > 0.5 + 0.5 * every.valid.float().mean()
    assert not torch.equal(first.cells_a, second.cells_a)
    assert torch.equal(prior.prepare(batch)[0].cells_a, first.cells_a)


def test_drawn_anchors_do_not_depend_on_what_else_is_in_the_batch():
    encoder, prior = BACKBONE.encoder(), attached(anchors=[8, 24], max_anchors=10)
    a, b = plane_clip("a", num_views=2), plane_clip("b", num_views=2)
    both = prior.prepare(encoder([a, b]))[0]
    for k, clip in enumerate((a, b)):
        alone = prior.prepare(encoder([clip]))[0]
        assert torch.equal(both.cells_a[both.clip == k], alone.cells_a)


def test_targets_find_the_same_surface_point():
    """Through the token map and back: both addresses of a match show one point of the plane."""
    clip = plane_clip("a", num_views=3)
    batch = BACKBONE.encoder()([clip])
    context = attached(anchors=[4]).prepare(batch)[0]
    centers = batch.token_map.centers()[0, 0]

    def lift(cells, weights, view):
        x, y = (centers[cells] * weights.unsqueeze(-1)).sum(0).tolist()
        depth, _, _ = clip.depth[view], None, None
        ray = clip.intrinsics[view].inverse() @ torch.tensor([x, y, 1.0])
        z = depth[int(y), int(x)]
        return clip.world_to_cam[view].inverse()[:3] @ torch.cat([ray * z, torch.ones(1)])

    checked = 0
    for p in range(len(context.clip)):
        for k in context.valid[p].nonzero().squeeze(1).tolist():
            a = lift(context.cells_a[p, k], context.weights_a[p, k], int(context.view_a[p]))
            b = lift(context.cells_b[p, k], context.weights_b[p, k], int(context.view_b[p]))
            at = (centers[context.cells_b[p, k]] * context.weights_b[p, k].unsqueeze(-1)).sum(0)
            if bool(((at > 4.5) & (at < 59.5)).all()):  # the rim is clamped to the outer centres
                assert (a - b).norm() < 0.08  # half a pixel's footprint at 3 m
                checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"negatives": "all"}, "target_frame, all_other_frames"),
        ({"initialization": "SVD"}, "svd, random"),
        ({"pairs": "some"}, "all, anchor"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"anchors": []}, "at least one grid side"),
    ],
)
def test_settings_that_cannot_be_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Gasp.Config(**config)
