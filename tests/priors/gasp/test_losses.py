"""GASP's losses against the formulas, written out as loops in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from spatialprior.core.sites import residual_out
from spatialprior.core.token_map import TokenMap
from spatialprior.geometry.matching import Tolerance, match, sample_depth
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.testing import plane_clip, tiny_backbone

BACKBONE = tiny_backbone()
LAYERS = (1, 3)


def holed(clip, share):
    """A clip without depth in its left part."""
    valid = clip.depth_valid.clone()
    valid[..., : int(valid.shape[-1] * share)] = False
    return dataclasses.replace(clip, depth_valid=valid)


def make_batch():
    """Unequal views, sizes and holes; the last clip has no geometry."""
    bare = dataclasses.replace(plane_clip("bare", num_views=2), depth=None)
    clips = [
        holed(plane_clip("a", num_views=3), 0.3),
        holed(plane_clip("b", num_views=2, size=(64, 80)), 0.15),
        bare,
    ]
    return BACKBONE.encoder()(clips)


def make_prior(**config):
    settings = {"embedding_dim": 6, "layers": list(LAYERS), "anchors": [2, 3], **config}
    torch.manual_seed(0)
    prior = Gasp(Gasp.Config(**settings))
    prior.attach(BACKBONE)
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return prior.double()


def make_taps(batch):
    generator = torch.Generator().manual_seed(1)
    shape = (*batch.labels.shape, BACKBONE.hidden_size)
    return {
        residual_out(i): torch.randn(
            shape, generator=generator, dtype=torch.float64
        ).requires_grad_()
        for i in LAYERS
    }


# --- the reference ----------------------------------------------------------------------------


def head(prior, layer, x):
    parts = dict(prior.heads[str(layer)].named_parameters())
    x = x / torch.sqrt((x * x).mean() + 1e-6) * parts["norm.weight"]
    x = parts["expand.weight"] @ x + parts["expand.bias"]
    x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    x = parts["contract.weight"] @ x + parts["contract.bias"]
    return x / torch.sqrt((x * x).sum())


def corners(x, y, rows, cols, height, width):
    """Bilinear neighbours [(row, col, weight)] of a pixel position among token centres."""
    u = min(max(x * cols / width - 0.5, 0.0), cols - 1.0)
    v = min(max(y * rows / height - 0.5, 0.0), rows - 1.0)
    out = []
    for row in (math.floor(v), math.floor(v) + 1):
        for col in (math.floor(u), math.floor(u) + 1):
            weight = max(0.0, 1 - abs(u - col)) * max(0.0, 1 - abs(v - row))
            if weight > 0:
                out.append((row, col, weight))
    return out


def reference(prior, taps, batch):
    """(sum, count) of both losses, anchor by anchor."""
    config, layout = prior.config, batch.token_map
    tolerance = Tolerance(config.tolerance_abs, config.tolerance_rel)
    corr, depth, num_corr, num_depth = 0.0, 0.0, 0, 0
    for layer in LAYERS:
        states = taps[residual_out(layer)]
        for b, clip in enumerate(batch.clips):
            if clip.depth is None:
                continue
            height, width = clip.image_size
            rows, cols = layout.grid[b, 0].tolist()
            embedding = {
                (v, r, c): head(prior, layer, states[b, layout.sequence_index(b, v, r, c)])
                for v in range(clip.num_views)
                for r in range(rows)
                for c in range(cols)
            }
            centers = [
                ((c + 0.5) * width / cols, (r + 0.5) * height / rows)
                for r in range(rows)
                for c in range(cols)
            ]
            token_depth, token_known, _ = sample_depth(
                clip.depth, clip.depth_valid, torch.tensor(centers).expand(clip.num_views, -1, -1)
            )
            anchors = [
                ((j + 0.5) * width / side, (i + 0.5) * height / side)
                for side in config.anchors
                for i in range(side)
                for j in range(side)
            ]
            for a in range(clip.num_views):
                for t in range(clip.num_views):
                    if a == t or (config.pairs == "anchor" and a != 0):
                        continue
                    found = match(
                        torch.tensor(anchors), torch.tensor([[a, t]]), clip.depth, clip.depth_valid,
                        clip.intrinsics, clip.world_to_cam, tolerance=tolerance,
                    )  # fmt: skip
                    for k in range(len(anchors)):
                        if not found.visible[0, k]:
                            continue
                        size = (rows, cols, height, width)
                        here = corners(*found.points_a[0, k].tolist(), *size)
                        anchor = sum(w * embedding[a, r, c] for r, c, w in here)
                        anchor = anchor / anchor.norm()
                        score = {
                            key: torch.dot(anchor, e) / config.temperature
                            for key, e in embedding.items()
                            if key[0] != a
                        }
                        inside = {key: s for key, s in score.items() if key[0] == t}
                        among = inside if config.negatives == "target_frame" else score
                        log_z = torch.logsumexp(torch.stack(list(among.values())), 0)
                        there = corners(*found.points_b[0, k].tolist(), *size)
                        corr = corr - sum(w * (score[t, r, c] - log_z) for r, c, w in there)
                        num_corr += 1
                        if not token_known[t].any():
                            continue
                        attention = torch.softmax(torch.stack(list(inside.values())), 0)
                        mass = sum(p for p, ok in zip(attention, token_known[t], strict=True) if ok)
                        expected = sum(
                            p * float(token_depth[t, r * cols + c])
                            for p, (_, r, c) in zip(attention, inside, strict=True)
                            if token_known[t, r * cols + c]
                        )
                        expected = expected / mass
                        true = float(found.depth_b[0, k])
                        depth = depth + abs(true - expected) / (true + expected + 1e-6)
                        num_depth += 1
    return (corr, num_corr), (depth, num_depth)


@pytest.mark.parametrize("pairs", ["all", "anchor"])
@pytest.mark.parametrize("negatives", ["target_frame", "all_other_frames"])
def test_losses_and_gradients_equal_the_formulas(negatives, pairs):
    batch, prior = make_batch(), make_prior(negatives=negatives, pairs=pairs)
    taps = make_taps(batch)
    inputs = [*taps.values(), *prior.parameters()]
    terms = {term.name: term for term in prior.losses(taps, prior.prepare(batch))}
    wanted = dict(zip(("corr", "depth"), reference(prior, taps, batch), strict=True))
    for name, (total, count) in wanted.items():
        assert terms[name].count == count > 0
        torch.testing.assert_close(terms[name].sum, total, rtol=1e-5, atol=1e-6)
        found = torch.autograd.grad(terms[name].sum, inputs, retain_graph=True)
        expected = torch.autograd.grad(total, inputs, retain_graph=True)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(
                mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max())
            )


@pytest.mark.parametrize("negatives", ["target_frame", "all_other_frames"])
def test_chunks_and_recomputation_change_nothing(negatives):
    batch = make_batch()
    wanted = None
    for chunk_pairs in (0, 1, 3):
        for recompute in (False, True):
            prior = make_prior(negatives=negatives, chunk_pairs=chunk_pairs, recompute=recompute)
            taps = make_taps(batch)
            sums = [term.sum for term in prior.losses(taps, prior.prepare(batch))]
            found = [*sums, *torch.autograd.grad(sum(sums), [*taps.values(), *prior.parameters()])]
            wanted = wanted or found
            for mine, first in zip(found, wanted, strict=True):
                torch.testing.assert_close(mine, first, rtol=1e-10, atol=1e-10)


def test_a_perfect_match_costs_nothing_and_a_wrong_one_does():
    """Not a formula but its meaning: one-hot embeddings of the surface point drive both losses to zero."""
    clip = plane_clip("a", num_views=2)
    still = dataclasses.replace(  # the same view twice: the match of a token is itself
        clip,
        images=clip.images[:1].expand(2, -1, -1, -1),
        depth=clip.depth[:1].expand(2, -1, -1),
        world_to_cam=clip.world_to_cam[:1].expand(2, -1, -1),
    )
    batch = BACKBONE.encoder()([still])
    prior = make_prior(embedding_dim=64, anchors=[8], temperature=0.01)
    context = prior.prepare(batch)
    cells = torch.arange(64)

    class OneHot(torch.nn.Module):
        shift = 0

        def forward(self, hidden):
            return (
                torch.eye(64).roll(self.shift, 0)[cells].expand(hidden.shape[0], 2, 64, 64).clone()
            )

    one_hot = OneHot()
    prior.heads = torch.nn.ModuleDict({str(i): one_hot for i in LAYERS})
    taps = make_taps(batch)
    perfect = {t.name: float(t.mean) for t in prior.losses(taps, context)}
    assert perfect["corr"] < 1e-4 and perfect["depth"] < 1e-4

    class Wrong(OneHot):
        def forward(self, hidden):
            out = super().forward(hidden)
            out[:, 1] = out[:, 1].roll(
                3, 1
            )  # everything in frame 1 looks like three cells further on
            return out

    prior.heads = torch.nn.ModuleDict({str(i): Wrong() for i in LAYERS})
    wrong = {t.name: float(t.mean) for t in prior.losses(taps, context)}
    assert wrong["corr"] > 50 and wrong["depth"] > 10 * max(perfect["depth"], 1e-4)


@pytest.mark.parametrize("case", ["hidden", "bare", "one view"])
def test_nothing_to_score_is_an_exact_connected_zero(case):
    clip = plane_clip("a", num_views=1 if case == "one view" else 2)
    if case == "bare":
        clip = dataclasses.replace(clip, depth=None, depth_valid=None)
    elif case == "hidden":
        clip = holed(clip, 1.0)
    batch, prior = BACKBONE.encoder()([clip]), make_prior()
    taps = make_taps(batch)
    with torch.no_grad():
        taps[residual_out(1)][0, 0, 0] = float("inf")  # even then: 0 * inf would be NaN
    terms = prior.losses(taps, prior.prepare(batch))
    assert [term.name for term in terms] == ["corr", "depth"]
    for term in terms:
        assert term.count == 0 and term.sum.item() == 0.0
        grads = torch.autograd.grad(
            term.sum, [*prior.parameters(), *taps.values()], retain_graph=True
        )
        assert all(not grad.any() for grad in grads)


def test_matches_without_any_token_depth_score_correspondence_alone():
    batch, prior = make_batch(), make_prior()
    (context,) = prior.prepare(batch)
    context = dataclasses.replace(
        context, token_depth_valid=torch.zeros_like(context.token_depth_valid)
    )
    corr, depth = prior.losses(make_taps(batch), [context])
    assert corr.count > 0 and corr.sum > 0
    assert depth.count == 0 and depth.sum.item() == 0.0


def saved_sizes(**config):
    batch, prior = make_batch(), make_prior(anchors=[9], **config)
    taps, (context,) = make_taps(batch), prior.prepare(batch)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        prior.losses(taps, [context])
    layout: TokenMap = context.layout
    return max(sizes), len(context.clip), context.valid.shape[1] * layout.index.shape[-1]


def test_recomputation_keeps_no_similarity_map():
    largest, pairs, per_pair = saved_sizes(recompute=False)
    assert largest >= pairs * per_pair  # the yardstick sees the map where it is kept
    largest, _, _ = saved_sizes(recompute=False, chunk_pairs=2)
    assert 2 * per_pair <= largest < pairs * per_pair
    for config in ({}, {"negatives": "all_other_frames"}, {"chunk_pairs": 2}):
        largest, _, _ = saved_sizes(recompute=True, **config)
        assert largest < pairs * per_pair
    # What remains of a layer is its tokens: linear in the views, not quadratic.
    tokens = make_batch().token_map.valid.numel() * BACKBONE.hidden_size
    assert largest <= tokens


def test_half_precision_autocast_does_not_reach_the_similarities():
    batch = make_batch()
    prior = make_prior().float()
    taps = {site: tap.float() for site, tap in make_taps(batch).items()}
    context = prior.prepare(batch)
    wanted = [term.sum for term in prior.losses(taps, context)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [term.sum for term in prior.losses(taps, context)]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
