from __future__ import annotations

import math

import pytest
import torch

from spatialprior.diagnostics.pck import (
    Neighbourhoods,
    best_match,
    chance_level,
    patch_distance,
    pooled_similarity,
    token_positions,
)

ROWS, COLS = 6, 7
N = ROWS * COLS
GRID = torch.tensor([[ROWS, COLS]])
VALID = torch.ones(1, N, dtype=torch.bool)


def one_hot_pair(shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token i of frame a looks exactly like token i + shift of frame b."""
    codes = torch.eye(N)
    return codes[None, :, None], codes.roll(shift, 0)[None, :, None]


def test_one_hot_codes_match_perfectly() -> None:
    query, key = one_hot_pair(0)
    token, confidence = best_match(query, key, VALID)
    assert torch.equal(token[0], torch.arange(N))
    weight = math.exp(1 / math.sqrt(N))
    assert confidence[0].tolist() == pytest.approx([weight / (weight + N - 1)] * N)


def test_shifted_codes_are_all_wrong() -> None:
    query, key = one_hot_pair(
        3 * COLS
    )  # three rows down (and around): always more than two patches
    token, _ = best_match(query, key, VALID)
    positions = token_positions(GRID, N)
    assert (patch_distance(positions[0, token[0]], positions[0]) > 2).all()


def test_positions_are_cell_centres() -> None:
    positions = token_positions(GRID, N)[0]
    assert positions[0].tolist() == [0.5, 0.5]
    assert positions[COLS + 2].tolist() == [2.5, 1.5]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_chance_by_brute_force(norm: str) -> None:
    truth = torch.tensor([[[0.2, 0.1], [3.6, 2.9], [6.9, 5.2]]])
    valid = VALID.clone()
    valid[0, ::5] = False
    got = chance_level(truth, token_positions(GRID, N), valid, 2.0, norm)[0]
    for (x, y), share in zip(truth[0].tolist(), got.tolist(), strict=True):
        hits = total = 0
        for cell in range(N):
            if not bool(valid[0, cell]):
                continue
            dx, dy = abs(cell % COLS + 0.5 - x), abs(cell // COLS + 0.5 - y)
            hits += (max(dx, dy) if norm == "linf" else math.hypot(dx, dy)) <= 2.0
            total += 1
        assert share == pytest.approx(hits / total)


@pytest.mark.parametrize("pooling", ["sum", "mean", "max", "softmax_mean"])
def test_pooling_equals_a_loop_over_heads_with_shared_keys(pooling: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 4, 8, generator=generator)
    key = torch.randn(2, 5, 2, 8, generator=generator)
    valid = torch.tensor([[True] * 5, [True, True, False, True, True]])
    heads = []
    for head in range(4):
        scores = query[:, :, head] @ key[:, :, head // 2].transpose(1, 2) / math.sqrt(8)
        heads.append(scores.masked_fill(~valid[:, None], -math.inf))
    stack = torch.stack(heads)
    wanted = {
        "sum": stack.sum(0),
        "mean": stack.mean(0),
        "max": stack.amax(0),
        "softmax_mean": stack.softmax(-1).mean(0).log(),
    }[pooling]
    got = pooled_similarity(query, key, valid, pooling)
    assert torch.allclose(got, wanted, atol=1e-6)
    token, confidence = best_match(query, key, valid, pooling)
    assert torch.equal(token, wanted.argmax(-1))
    assert torch.allclose(confidence, wanted.softmax(-1).amax(-1), atol=1e-6)
    assert not (token[1] == 2).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_confidence_near_the_match_by_brute_force(norm: str) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key = (torch.randn(1, n, 2, 4, generator=generator) for n in (4, N))
    valid = VALID.clone()
    valid[0, ::7] = False
    around = Neighbourhoods.of(GRID, N, 2.0, norm)
    token, confidence = best_match(query, key, valid, "sum", around)
    weights = pooled_similarity(query, key, valid, "sum").softmax(-1)[0]
    for anchor in range(4):
        best_row, best_col = divmod(int(token[0, anchor]), COLS)
        wanted = 0.0
        for cell in range(N):
            dy, dx = abs(cell // COLS - best_row), abs(cell % COLS - best_col)
            if (max(dx, dy) if norm == "linf" else math.hypot(dx, dy)) <= 2.0:
                wanted += float(weights[anchor, cell])
        assert float(confidence[0, anchor]) == pytest.approx(wanted, abs=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(5, 3, 2, 4), torch.randn(5, 6, 2, 4)
    valid = torch.ones(5, 6, dtype=torch.bool)
    whole = best_match(query, key, valid, "max")
    monkeypatch.setattr("spatialprior.diagnostics.pck._ELEMENTS_AT_ONCE", 1)
    parts = best_match(query, key, valid, "max")
    assert torch.equal(whole[0], parts[0]) and torch.allclose(whole[1], parts[1])


def test_chunks_keep_each_pairs_own_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(2, 3, 2, 4), torch.randn(2, 12, 2, 4)
    valid = torch.ones(2, 12, dtype=torch.bool)
    grids = torch.tensor([[3, 4], [2, 6]])
    around = Neighbourhoods.of(grids, 12, 1.0)
    whole = best_match(query, key, valid, "sum", around)
    each = [
        best_match(query[[i]], key[[i]], valid[:1], "sum", Neighbourhoods.of(grids[[i]], 12, 1.0))
        for i in range(2)
    ]
    monkeypatch.setattr("spatialprior.diagnostics.pck._ELEMENTS_AT_ONCE", 1)
    parts = best_match(query, key, valid, "sum", around)
    assert torch.allclose(whole[1], parts[1])
    assert torch.allclose(whole[1], torch.cat([confidence for _, confidence in each]))
