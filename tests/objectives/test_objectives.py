"""Losses and sampling against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from spatialprior.objectives.contrast import info_nce
from spatialprior.objectives.depth import depth_consistency, depth_values, expected_depth
from spatialprior.objectives.language import answer_cross_entropy
from spatialprior.objectives.sampling import bilinear_cells, bilinear_sample
from spatialprior.objectives.soft_match import soft_match


def test_bilinear_sampling_is_exact_on_a_linear_field():
    rows, cols = 5, 7
    row, col = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(cols) + 0.5, indexing="ij")
    field = (3 * col - 2 * row + 1).reshape(1, rows * cols, 1)
    torch.manual_seed(0)
    points = torch.rand(1, 50, 2) * torch.tensor([cols - 1.0, rows - 1.0]) + 0.5
    cells, weights = bilinear_cells(points, torch.tensor([[rows, cols]]))
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 50))
    found = bilinear_sample(field, cells, weights)[0, :, 0]
    torch.testing.assert_close(found, 3 * points[0, :, 0] - 2 * points[0, :, 1] + 1)


@pytest.mark.parametrize(
    ("point", "row", "col"),
    [
        ((0.0, 0.0), 0, 0),
        ((7.0, 5.0), 4, 6),
        ((-9.0, 2.5), 2, 0),
        ((3.5, 99.0), 4, 3),
        ((6.5, 0.5), 0, 6),
    ],
)
def test_points_beyond_the_outer_centres_take_the_nearest_cell(point, row, col):
    cells, weights = bilinear_cells(torch.tensor([[point]]), torch.tensor([[5, 7]]))
    share = torch.zeros(35).index_add_(0, cells[0, 0], weights[0, 0])
    assert share[row * 7 + col] == pytest.approx(1.0)
    assert cells.min() >= 0 and cells.max() < 35


def test_grids_of_one_row_or_column():
    cells, weights = bilinear_cells(
        torch.tensor([[[0.5, 2.0]], [[1.0, 0.5]]]), torch.tensor([[4, 1], [1, 2]])
    )
    column = torch.zeros(4).index_add_(0, cells[0, 0], weights[0, 0])
    assert column.tolist() == [0, 0.5, 0.5, 0]
    assert torch.zeros(2).index_add_(0, cells[1, 0], weights[1, 0]).tolist() == [0.5, 0.5]


def matched(scores, values, cells=None, weights=None, hidden=None):
    """``soft_match`` on a map given outright: one-hot candidates read the anchors' coordinates."""
    anchors = scores.unsqueeze(0)
    num = scores.shape[-1]
    if cells is None:
        cells = torch.zeros(1, len(scores), 4, dtype=torch.long)
    if weights is None:
        weights = torch.full(cells.shape, 0.25)
    candidates = torch.eye(num, dtype=scores.dtype).unsqueeze(0)
    return soft_match(anchors, candidates, cells, weights, values, hidden)


@pytest.mark.parametrize(("with_hidden", "m"), [(False, 2), (True, 2), (True, 0)])
def test_soft_match_equals_autograd_in_values_and_gradients(with_hidden, m):
    torch.manual_seed(0)
    p, a, n, e = 3, 5, 9, 4
    anchors = (6 * torch.randn(p, a, e, dtype=torch.float64)).requires_grad_()
    candidates = torch.randn(p, n, e, dtype=torch.float64, requires_grad=True)
    hidden = torch.rand(p, n) < 0.3 if with_hidden else None
    cells = torch.randint(0, n, (p, a, 4))
    if hidden is not None:
        hidden[:, 0] = False
        cells = torch.where(hidden.unsqueeze(1).expand(-1, a, -1).gather(2, cells), 0, cells)
    weights = torch.rand(p, a, 4, dtype=torch.float64)
    values = torch.randn(p, n, m, dtype=torch.float64)
    scores = anchors @ candidates.transpose(1, 2)
    seen = scores if hidden is None else scores.masked_fill(hidden.unsqueeze(1), -math.inf)
    wanted = (
        (scores.gather(2, cells) * weights).sum(-1),
        seen.logsumexp(-1),
        seen.softmax(-1) @ values,
    )
    found = soft_match(anchors, candidates, cells, weights, values, hidden)
    back = [torch.randn_like(w) for w in wanted]
    mine = torch.autograd.grad(found, (anchors, candidates), back)
    theirs = torch.autograd.grad(wanted, (anchors, candidates), back)
    for x, y in zip((*found, *mine), (*wanted, *theirs), strict=True):
        torch.testing.assert_close(x, y)


def test_soft_match_survives_scores_beyond_the_range_of_exp():
    scores = torch.tensor([[3e4, -3e4, 0.0]], requires_grad=True)
    found = matched(scores, torch.tensor([[[1.0], [2.0], [3.0]]]))
    assert found.log_normaliser.item() == 3e4 and found.means.item() == 1.0
    (grad,) = torch.autograd.grad(found.log_normaliser, scores)
    assert grad.tolist() == [[1.0, 0.0, 0.0]]


def test_uniform_similarity_costs_log_n():
    found = matched(torch.full((3, 16), 2.5), torch.zeros(1, 16, 0))
    valid = torch.tensor([[True, False, True]])
    torch.testing.assert_close(
        info_nce(found.match_logit, found.log_normaliser, valid), torch.tensor(2 * math.log(16))
    )


def test_invalid_anchors_give_neither_loss_nor_gradient():
    scores = torch.randn(2, 4, requires_grad=True)
    found = matched(scores, torch.zeros(1, 4, 0))
    info_nce(found.match_logit, found.log_normaliser, torch.tensor([[True, False]])).backward()
    assert scores.grad[0].any() and not scores.grad[1].any()


def test_depth_consistency_closed_form_and_scale():
    scores = torch.tensor([[0.5, 0.3, 0.2], [1e-9, 1e-9, 1.0]]).log()
    candidates, known = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])
    depth, valid = torch.tensor([[2.0, 5.0]]), torch.tensor([[True, False]])

    def loss(unit):
        means = matched(scores, depth_values(unit * candidates, known)).means
        return depth_consistency(expected_depth(means), unit * depth, valid)

    expected = (0.5 * 1 + 0.3 * 2) / 0.8  # renormalised over the known ones
    assert float(loss(1)) == pytest.approx(abs(2 - expected) / (2 + expected), rel=1e-5)
    torch.testing.assert_close(loss(40), loss(1))


def test_depth_consistency_survives_nan_and_no_known_depth():
    scores = torch.zeros(1, 2, requires_grad=True)
    candidates = torch.tensor([[float("nan"), float("inf")]])
    means = matched(scores, depth_values(candidates, torch.zeros(1, 2, dtype=torch.bool))).means
    total = depth_consistency(
        expected_depth(means), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.bool)
    )
    total.backward()
    assert total.item() == 0.0 and not scores.grad.any()


def test_answer_cross_entropy_scores_the_next_token_where_labelled():
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 5, 8, requires_grad=True), torch.randn(11, 8)
    labels = torch.full((2, 5), -100)
    labels[0, 2], labels[0, 3], labels[1, 4], labels[1, 0] = (
        7,
        1,
        10,
        3,
    )  # position 0 has no predecessor
    seen = []

    def logits(states):
        seen.append(states.shape)
        return states @ weight.T

    total, count = answer_cross_entropy(hidden, labels, logits)
    log_prob = (hidden @ weight.T).log_softmax(-1)
    wanted = -(log_prob[0, 1, 7] + log_prob[0, 2, 1] + log_prob[1, 3, 10])
    torch.testing.assert_close(total, wanted)
    assert count == 3 and seen == [(3, 8)]  # logits exist for scored positions alone


@pytest.mark.parametrize("chunk", [0, 1, 3, 256])
def test_answer_cross_entropy_is_the_full_one_in_float64(chunk):
    """Same loss and gradients as cross-entropy over all logits, chunked or not."""
    torch.manual_seed(0)
    labels = torch.randint(50, (3, 17)).masked_fill(torch.rand(3, 17) < 0.4, -100)
    grads = []
    for side in ("full", "answers"):
        torch.manual_seed(1)
        head = torch.nn.Linear(8, 50, dtype=torch.float64)
        hidden = torch.randn(3, 17, 8, dtype=torch.float64, requires_grad=True)
        if side == "full":
            logits = head(hidden)[:, :-1].flatten(0, 1)
            loss = F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
        else:
            loss, count = answer_cross_entropy(hidden, labels, head, chunk)
            assert count == int((labels[:, 1:] != -100).sum()) > 3
        loss.backward()
        grads.append([loss.detach(), hidden.grad, head.weight.grad, head.bias.grad])
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_answer_cross_entropy_without_answers_is_a_connected_zero():
    hidden = torch.randn(2, 5, 8, requires_grad=True)
    head = torch.nn.Linear(8, 50)
    loss, count = answer_cross_entropy(hidden, torch.full((2, 5), -100), head)
    loss.backward()
    assert count == 0 and loss == 0 and not hidden.grad.any() and not head.weight.grad.any()
