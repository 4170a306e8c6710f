"""Sites, terms and clips."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.core.clip import MultiViewClip
from spatialprior.core.sites import Site, parse_residual, residual_in, residual_out, resolve_layers
from spatialprior.core.terms import LossTerm, NonFiniteLossError, check_finite, total_loss


@given(st.integers(1, 40), st.data())
def test_residual_sites_round_trip(num_layers, data):
    layer = data.draw(st.integers(0, num_layers - 1))
    assert parse_residual(residual_in(layer), num_layers) == ("in", layer)
    assert parse_residual(residual_out(layer), num_layers) == ("out", layer)
    with pytest.raises(ValueError, match="unknown site"):
        parse_residual(residual_out(num_layers), num_layers)


@pytest.mark.parametrize(
    "site", ["residual_out", "residual_out[-1]", "residual_mid[0]", "xresidual_in[0]"]
)
def test_other_names_are_no_sites(site):
    with pytest.raises(ValueError, match=r"residual_in\[0\.\.3\]"):
        parse_residual(Site(site), 4)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", list(range(28))),
        ("every_4", [3, 7, 11, 15, 19, 23, 27]),
        ("every_28", [27]),
        ("10-12", [10, 11, 12]),
        ([5, 2, 5], [2, 5]),
    ],
)
def test_resolve_layers(spec, expected):
    assert resolve_layers(spec, 28) == expected


@pytest.mark.parametrize("spec", ["every_0", "every_29", "3-2", "0-28", "some", [28], [-1], []])
def test_layers_that_do_not_exist(spec):
    with pytest.raises(ValueError, match="layers="):
        resolve_layers(spec, 28)


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 9)), min_size=1, max_size=6))
def test_total_loss_over_micro_batches_is_the_mean_over_all_items(parts):
    counts = {"t": float(sum(n for _, n in parts))}
    micro = [LossTerm("t", torch.tensor(value * n), float(n), weight=0.5) for value, n in parts]
    total = sum(float(total_loss([term], counts)) for term in micro)
    items = [value for value, n in parts for _ in range(n)]
    assert total == pytest.approx(0.5 * sum(items) / max(len(items), 1), abs=1e-4)


def test_total_loss_without_terms_says_so():
    with pytest.raises(ValueError, match="no loss term"):
        total_loss([], {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_check_finite_names_term_and_clips(value):
    good = LossTerm("language", torch.tensor(1.0), 1.0)
    check_finite([good], ("a",))
    with pytest.raises(NonFiniteLossError, match=r"gasp/corr is (nan|inf) on clips room-3, room-9"):
        check_finite([good, LossTerm("gasp/corr", torch.tensor(value), 2.0)], ("room-3", "room-9"))


def test_clips_check_their_shapes():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="clip x: images must be uint8"):
        MultiViewClip("x", "x", images.float(), (0, 1))
    with pytest.raises(ValueError, match="clip x: 3 frame ids for 2 views"):
        MultiViewClip("x", "x", images, (0, 1, 2))
