"""The whole probe on the nano model and a scene of one fronto-parallel plane, whose matches are closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.clip import MultiViewClip
from spatialprior.diagnostics import probe as probe_module
from spatialprior.diagnostics.anchors import grid_cells, sample_anchors, view_pairs
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.probe import inference, match_batch, probe
from spatialprior.diagnostics.result import ProbeResult, Samples, select_layer
from spatialprior.diagnostics.trace import trace_clip

DEPTH, FOCAL, SIDE = 2.0, 100.0, 128


def plane_clip(
    index: int, shifts: tuple[float, ...] = (0.0, 0.48, -0.48), size: int = SIDE
) -> MultiViewClip:
    """Cameras that slide along x in front of a plane: a point moves by FOCAL * shift / DEPTH pixels."""
    views = len(shifts)
    generator = torch.Generator().manual_seed(index)
    poses = torch.eye(4).repeat(views, 1, 1)
    poses[:, 0, 3] = torch.tensor(shifts)
    intrinsics = torch.tensor([[FOCAL, 0, size / 2], [0, FOCAL, size / 2], [0, 0, 1]])
    return MultiViewClip(
        clip_id=f"clip{index}",
        source_id=f"scene{index}",
        images=torch.randint(
            0, 256, (views, 3, size, size), generator=generator, dtype=torch.uint8
        ),
        frame_ids=tuple(2 * i for i in range(views)),
        intrinsics=intrinsics.repeat(views, 1, 1),
        world_to_cam=poses,
        depth=torch.full((views, size, size), DEPTH),
        depth_valid=torch.ones(views, size, size, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def backbone(nano_folder: Path) -> Qwen2_5VL:
    return Qwen2_5VL.load(Qwen2_5VL.Config(path=str(nano_folder)))


def test_anchors_and_their_matches(backbone: Qwen2_5VL) -> None:
    clip = plane_clip(0)
    layout = backbone.encoder()([clip]).token_map
    pairs = sample_anchors([clip], layout, ProbeConfig(anchor_grid=4, direction="causal"))
    assert torch.stack([pairs.view_a, pairs.view_b], -1).tolist() == [[1, 0], [2, 0], [2, 1]]
    assert pairs.distance.tolist() == [2, 4, 2]
    moved = torch.tensor([-24.0, 24.0, 48.0])  # pixels, closed form
    expected = pairs.points_a + torch.stack([moved, torch.zeros(3)], -1)[:, None]
    inside = (expected[..., 0] >= 0) & (expected[..., 0] <= SIDE)
    assert torch.equal(pairs.scored, inside)
    assert torch.allclose(pairs.points_b[inside], expected[inside], atol=1e-3)


def test_pairs_by_direction() -> None:
    assert view_pairs(3, "forward").tolist() == [[0, 1], [0, 2], [1, 2]]
    assert len(view_pairs(3, "both")) == 6


def test_grid_cells_spread_and_never_exceed_the_grid() -> None:
    assert grid_cells(16, 16, 4).tolist()[:4] == [2 * 16 + 2, 2 * 16 + 6, 2 * 16 + 10, 2 * 16 + 14]
    assert grid_cells(2, 3, 8).tolist() == list(range(6))


def test_static_chance_and_counts_are_closed_form(backbone: Qwen2_5VL) -> None:
    clips = [
        plane_clip(i, (0.0, 0.16)) for i in range(2)
    ]  # 8 px: one patch, so the same place is right
    near = probe(backbone, backbone.encoder(), clips, ProbeConfig())
    assert near.static == 1.0 and near.n_moved == 0 and near.pck_moved_by_layer is None
    far = probe(
        backbone, backbone.encoder(), [plane_clip(i) for i in range(3)], ProbeConfig(batch_clips=2)
    )
    assert far.static == 0.0 and far.n_moved == far.n_anchors
    assert (far.n_clips, far.n_pairs) == (3, 9)
    assert 0.02 < far.chance < 0.06  # 13 cells of 256 in the middle, fewer at the border
    assert set(far.by_distance) == {2, 4}
    # A random model is at chance: within the interval's reach of it.
    assert all(pck < 3 * far.chance for pck in far.pck_by_layer)


def test_a_matcher_that_knows_the_truth_scores_one(
    backbone: Qwen2_5VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def oracle(model: Qwen2_5VL, batch: object, pairs: object, config: object) -> object:
        cols = 16
        cell = (pairs.points_b / 8).long().clamp(0, cols - 1)
        token = cell[..., 1] * cols + cell[..., 0]
        # Layer 0 knows, layer 1 is a row and a half off the radius; confidence tells them apart nowhere.
        wrong = (token + 4 * cols) % (cols * cols)
        return torch.stack([token, wrong], -1), torch.full((*token.shape, 2), 0.5)

    monkeypatch.setattr(probe_module, "match_batch", oracle)
    result = probe(backbone, backbone.encoder(), [plane_clip(i) for i in range(2)], ProbeConfig())
    assert result.pck_by_layer == [1.0, 0.0]
    assert result.confidence_correlation_by_layer == [None, None]
    assert select_layer(result) == 0
    assert result.temporal_robustness(0) == {2: 1.0, 4: 1.0}
    assert result.temporal_robustness(1) == {}


@pytest.mark.parametrize("rope", [True, False])
def test_matches_do_not_depend_on_the_batch_or_the_mode(backbone: Qwen2_5VL, rope: bool) -> None:
    clips, config = [plane_clip(0), plane_clip(1, (0.0, 0.3))], ProbeConfig(rope=rope)
    backbone.train()
    together = probe(backbone, backbone.encoder(), clips, config)
    assert backbone.training
    alone = probe(backbone, backbone.encoder(), clips, ProbeConfig(rope=rope, batch_clips=1))
    assert together.n_anchors == alone.n_anchors
    assert together.pck_by_layer == pytest.approx(alone.pck_by_layer, abs=2.5 / together.n_anchors)


def test_confidence_around_the_match_is_more_than_at_it(backbone: Qwen2_5VL) -> None:
    batch = backbone.encoder()([plane_clip(0)])
    pairs = sample_anchors([plane_clip(0)], batch.token_map, ProbeConfig())
    with inference(backbone):
        _, at = match_batch(backbone, batch, pairs, ProbeConfig(confidence="softmax_max"))
        _, near = match_batch(backbone, batch, pairs, ProbeConfig())
    assert (near >= at - 1e-6).all() and (near > at + 1e-4).any() and (near <= 1 + 1e-5).all()


def test_capture_reads_what_attention_uses(backbone: Qwen2_5VL) -> None:
    """The best token by the probe is the arg max of q.k computed from the layer's own modules."""
    clip, config = plane_clip(3), ProbeConfig(anchor_grid=3, rope=False)
    batch = backbone.encoder()([clip])
    pairs = sample_anchors([clip], batch.token_map, config)
    normed: dict[int, torch.Tensor] = {}
    handles = [
        layer.input_layernorm.register_forward_hook(
            lambda m, a, out, i=i: normed.__setitem__(i, out)
        )
        for i, layer in enumerate(backbone.decoder_layers)
    ]
    with inference(backbone):
        tokens, _ = match_batch(backbone, batch, pairs, config)
        for handle in handles:
            handle.remove()
        for i, attention in enumerate(backbone.attention_modules()):
            q, k = attention.q_proj(normed[i])[0], attention.k_proj(normed[i])[0]
            for p in range(len(pairs)):
                rows = batch.token_map.index[0, pairs.view_a[p]][pairs.cells[p]]
                keys = batch.token_map.index[0, pairs.view_b[p]]
                scores = q[rows] @ k[keys].T
                picked = scores.gather(1, tokens[p, :, i : i + 1]).squeeze(1)
                assert torch.allclose(picked, scores.amax(1), rtol=1e-4, atol=1e-4)


def test_clips_without_geometry_or_overlap_are_refused(backbone: Qwen2_5VL) -> None:
    bare = MultiViewClip("bare", "s", torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8), (0, 1))
    with pytest.raises(ValueError, match="bare lacks"):
        probe(backbone, backbone.encoder(), [bare], ProbeConfig())
    with pytest.raises(ValueError, match="no anchor"):
        probe(backbone, backbone.encoder(), [plane_clip(0, (0.0, 40.0))], ProbeConfig())


@pytest.mark.parametrize(
    "bad", [{"pooling": "median"}, {"direction": "up"}, {"norm": "l1"}, {"batch_clips": 0}]
)
def test_settings_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"probe.{next(iter(bad))}"):
        ProbeConfig(**bad)  # type: ignore[arg-type]


def samples(correct: np.ndarray, confidence: np.ndarray, distance: np.ndarray) -> Samples:
    n = len(correct)
    return Samples(
        correct=correct,
        confidence=confidence.astype(np.float32),
        chance=np.full(n, 0.05, np.float32),
        static=np.arange(n) % 4 == 0,
        distance=distance,
        pair=np.arange(n) // 10,
        clip_ids=[f"c{i // 20}" for i in range(n)],
        source_ids=[f"s{i // 40}" for i in range(n)],
    )


def test_figures_from_known_scores() -> None:
    distance = np.repeat([1, 3], 200)
    correct = np.stack(
        [np.arange(400) % 2 == 0, np.arange(400) % np.where(distance == 1, 2, 4) == 0], 1
    )
    confidence = np.stack([correct[:, 0] * 0.5 + 0.1, 0.9 - correct[:, 1] * 0.5], 1)
    result = ProbeResult.from_samples(samples(correct, confidence, distance), {"rope": True})
    assert result.pck_by_layer == [0.5, 0.375]
    assert result.confidence_correlation_by_layer == pytest.approx([1.0, -1.0], abs=1e-6)
    assert result.temporal_robustness(1) == {1: 1.0, 3: 0.5}
    assert result.static == 0.25 and result.n_moved == 300
    assert result.pck_moved_by_layer == pytest.approx([100 / 300, 50 / 300])
    assert (result.clustered_by, result.n_clips, result.n_pairs) == ("source", 20, 40)
    arm = result.at_layer(1)
    assert arm["peak_pck"] == 0.375 and arm["ci95"][0] < 0.375 < arm["ci95"][1]
    assert arm["by_distance"]["3"] == {
        "pck": 0.25,
        "n": 200,
        "chance": pytest.approx(0.05),
        "static": 0.25,
    }
    assert json.loads(json.dumps(arm, allow_nan=False))["settings"] == {"rope": True}


def test_few_scenes_fall_back_to_clips() -> None:
    correct = np.random.default_rng(0).random((80, 1)) < 0.5
    result = ProbeResult.from_samples(samples(correct, correct * 0.1, np.ones(80, int)), {})
    assert result.clustered_by == "clip" and result.temporal_robustness(0) == {1: 1.0}


def test_trace_is_readable_without_pickle(backbone: Qwen2_5VL, tmp_path: Path) -> None:
    trace = trace_clip(backbone, backbone.encoder(), plane_clip(5), 2, ProbeConfig())
    path = tmp_path / "pictures" / "after.npz"
    trace.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["after.npz"]
    with np.load(path, allow_pickle=False) as arrays:
        a, b = arrays["pair"].tolist()
        assert a > b  # causal
        shift = FOCAL * ((0.0, 0.48, -0.48)[b] - (0.0, 0.48, -0.48)[a]) / DEPTH
        assert np.allclose(arrays["truth_b"] - arrays["points_a"], [shift, 0], atol=1e-2)
        off = np.linalg.norm((arrays["points_b"] - arrays["truth_b"]) / 8, axis=1)
        assert np.array_equal(off <= 2, arrays["correct"])
        heat = arrays["heat"]
        assert np.isnan(heat[a]).all()
        assert all(math.isclose(heat[v].sum(), 1, rel_tol=1e-4) for v in range(3) if v != a)
