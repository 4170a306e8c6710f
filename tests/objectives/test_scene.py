from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spatialprior.geometry.cameras import nearest_rotation, transform
from spatialprior.objectives import scene
from spatialprior.objectives.point_maps import in_first_view
from spatialprior.objectives.scene import scene_counts, scene_losses
from spatialprior.objectives.scene_weights import SceneLossConfig, guard_spikes, weighted_total

CONFIG = SceneLossConfig()
NAMES = {"points", "global_points", "normals", "rotation", "translation"}


@dataclass
class Truth:
    points: Tensor  # V H W 3
    valid: Tensor  # V H W
    poses: Tensor  # V 4 4

    def points_global(self) -> Tensor:
        flat = self.points.reshape(len(self.poses), -1, 3)
        return transform(flat, in_first_view(self.poses)).view_as(self.points)


def rigid(generator: torch.Generator, number: int) -> Tensor:
    poses = torch.eye(4).double().repeat(number, 1, 1)
    poses[:, :3, :3] = nearest_rotation(torch.randn(number, 3, 3, generator=generator).double())
    poses[:, :3, 3] = torch.randn(number, 3, generator=generator).double()
    return poses


def make_truth(seed: int, views: int = 3, height: int = 6, width: int = 8) -> Truth:
    """Gently waved surfaces two to four metres ahead, a fifth of the pixels without depth."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(
        torch.linspace(-0.4, 0.4, height).double(),
        torch.linspace(-0.5, 0.5, width).double(),
        indexing="ij",
    )
    a, b, c = torch.rand(3, views, 1, 1, generator=generator).double()
    depth = 2 + 2 * a + 0.1 * torch.sin(2 * x + 3 * b) + 0.1 * torch.cos(2 * y + 3 * c)
    points = torch.stack([x * depth, y * depth, depth], dim=-1)
    valid = torch.rand(views, height, width, generator=generator) < 0.8
    return Truth(points, valid, rigid(generator, views))


def wrong(truth: Truth, seed: int = 7, size: float = 0.1) -> dict[str, Tensor]:
    """A prediction near the truth."""
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor) -> Tensor:
        return size * torch.randn(like.shape, generator=generator).to(like)

    poses = truth.poses.clone()
    poses[:, :3, 3] += noise(poses[:, :3, 3])
    poses[:, :3, :3] = nearest_rotation(poses[:, :3, :3] + noise(poses[:, :3, :3]))
    points, whole = truth.points, truth.points_global()
    return {
        "points": points + noise(points),
        "poses": poses,
        "points_global": whole + noise(whole),
    }


def scaled(predicted: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    poses = predicted["poses"].clone()
    poses[:, :3, 3] *= factor
    return {name: factor * value for name, value in predicted.items()} | {"poses": poses}


def exact(truth: Truth) -> dict[str, Tensor]:
    return {"points": truth.points, "poses": truth.poses, "points_global": truth.points_global()}


def losses(
    predicted: dict[str, Tensor], truth: Truth, config: SceneLossConfig = CONFIG, **more: Any
) -> scene.Losses:
    return scene_losses(
        predicted["points"],
        predicted["poses"],
        truth.points,
        truth.valid,
        truth.poses,
        config,
        points_global=predicted["points_global"],
        **more,
    )


def values(found: scene.Losses) -> dict[str, float]:
    return {name: loss.item() for name, (loss, _) in found.items()}


def with_gradient(predicted: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_() for name, value in predicted.items()}


def gradients(predicted: dict[str, Tensor], found: scene.Losses) -> dict[str, Tensor]:
    total = weighted_total(found, CONFIG.weights())
    parts = torch.autograd.grad(total, list(predicted.values()))
    return dict(zip(predicted, parts, strict=True))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), exponent=st.floats(-3, 3))
def test_no_loss_depends_on_the_scale_of_the_prediction(seed, exponent):
    truth = make_truth(seed)
    predicted = wrong(truth)
    plain = values(losses(predicted, truth))
    assert set(plain) == NAMES
    assert all(value > 0 for value in plain.values())
    assert values(losses(scaled(predicted, 10**exponent), truth)) == pytest.approx(plain, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_no_loss_depends_on_either_world_or_on_the_truths_unit(seed):
    truth = make_truth(seed)
    predicted = wrong(truth)
    plain = values(losses(predicted, truth))
    worlds = rigid(torch.Generator().manual_seed(seed + 1), 2)
    poses = worlds[0] @ truth.poses
    assert values(losses(predicted, replace(truth, poses=poses))) == pytest.approx(plain, rel=1e-6)
    moved = predicted | {"poses": worlds[1] @ predicted["poses"]}
    assert values(losses(moved, truth)) == pytest.approx(plain, rel=1e-6)
    poses = truth.poses.clone()
    poses[:, :3, 3] *= 1000
    millimetres = replace(truth, points=1000 * truth.points, poses=poses)
    assert values(losses(predicted, millimetres)) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("factor", [1.0, 0.01, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_truth_at_any_scale_costs_nothing_and_has_a_finite_gradient(factor, dtype):
    truth = make_truth(3)
    truth = replace(truth, points=truth.points.to(dtype), poses=truth.poses.to(dtype))
    predicted = with_gradient(scaled(exact(truth), factor))
    found = losses(predicted, truth)
    sizes = {name: loss.item() / count for name, (loss, count) in found.items()}
    assert sizes == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-6)
    assert all(torch.isfinite(part).all() for part in gradients(predicted, found).values())


def test_points_loss_equals_the_formula_written_out():
    truth = make_truth(5)
    predicted = wrong(truth)
    p, t, m = (a.numpy() for a in (predicted["points"], truth.points, truth.valid))
    x = p / np.linalg.norm(p[m], axis=-1).mean()
    y = t / np.linalg.norm(t[m], axis=-1).mean()
    mean_z = np.array([view[ok][:, 2].mean() for view, ok in zip(y, m, strict=True)])
    w = 1 / np.maximum(y[..., 2], 0.1 * mean_z[:, None, None])

    def mean_error(scale: float) -> float:
        return float((w[..., None] * np.abs(scale * x - y))[m].mean())

    least = min(mean_error(s) for s in (y[m] / x[m]).ravel())
    total, count = losses(predicted, truth)["points"]
    assert count == 3 * m.sum()
    assert total.item() / count == pytest.approx(least, rel=1e-9)


def test_no_gradient_goes_through_the_scale(monkeypatch):
    truth = make_truth(11)
    predicted = with_gradient(wrong(truth))
    kept: list[Tensor] = []

    def keep(*args: Any) -> Tensor:
        kept.append(fit(*args))
        return kept[-1]

    fit = scene.optimal_scale
    monkeypatch.setattr(scene, "optimal_scale", keep)
    found = gradients(predicted, losses(predicted, truth))
    constant = torch.tensor(kept[0].item(), dtype=torch.float64)
    monkeypatch.setattr(scene, "optimal_scale", lambda *args: constant)
    wanted = gradients(predicted, losses(predicted, truth))
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient)
        assert gradient.abs().sum() > 0


def test_nothing_in_invalid_pixels_reaches_a_value_or_a_gradient():
    truth = make_truth(13)
    predicted = wrong(truth)
    sky = torch.zeros_like(truth.valid)
    more = {"confidence_logits": predicted["points"][..., 0], "sky": sky}
    plain = values(losses(predicted, truth, **more))
    for junk in (math.nan, math.inf, -math.inf):
        points = truth.points.clone()
        points[~truth.valid] = junk
        spoiled = {name: value.clone() for name, value in predicted.items()}
        for name in ("points", "points_global"):
            spoiled[name][~truth.valid] = junk
        spoiled = with_gradient(spoiled)
        found = losses(spoiled, replace(truth, points=points), **more)
        assert values(found) == pytest.approx(plain)
        for name, gradient in gradients(spoiled, found).items():
            assert torch.isfinite(gradient).all()
            assert name == "poses" or (gradient[~truth.valid] == 0).all()


def test_autocast_changes_nothing():
    truth = make_truth(17)
    truth = replace(truth, points=truth.points.float(), poses=truth.poses.float())
    predicted = wrong(truth)
    plain = losses(predicted, truth)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(predicted, truth)
        low = losses({name: value.bfloat16() for name, value in predicted.items()}, truth)
    assert values(found) == values(plain)
    for loss, _ in (*found.values(), *low.values()):
        assert loss.dtype == torch.float32


def test_sums_and_counts_add_up_over_clips_and_counts_follow_from_the_truth():
    """Two clips of unlike views and sizes, whose means must weigh every pixel, quad and pair the same."""
    truths = [make_truth(19, views=2), make_truth(23, views=4, height=5, width=9)]
    found = [losses(wrong(truth), truth) for truth in truths]
    pixels = [int(truth.valid.sum()) for truth in truths]
    sizes = {
        "points": [3 * n for n in pixels],
        "global_points": [3 * n for n in pixels],
        "normals": [2 * 5 * 7, 4 * 4 * 8],
        "rotation": [2, 12],
        "translation": [2, 12],
    }
    for clip, truth in enumerate(truths):
        counts = {name: count for name, (_, count) in found[clip].items()}
        assert counts == {name: both[clip] for name, both in sizes.items()}
        assert scene_counts(truth.valid, CONFIG, points_global=True) == counts


def test_views_of_unlike_sizes_are_one_clip():
    truth = make_truth(29, views=2)
    predicted = wrong(truth)
    whole = values(losses(predicted, truth, SceneLossConfig(normals=0)))
    rows = [6, 4]
    cut = replace(truth, valid=truth.valid.clone())
    cut.valid[1, 4:] = False
    wanted = values(losses(predicted, cut, SceneLossConfig(normals=0)))
    found = scene_losses(
        [view[:n] for view, n in zip(predicted["points"], rows, strict=True)],
        predicted["poses"],
        [view[:n] for view, n in zip(truth.points, rows, strict=True)],
        [view[:n] for view, n in zip(truth.valid, rows, strict=True)],
        truth.poses,
        CONFIG,
        points_global=[view[:n] for view, n in zip(predicted["points_global"], rows, strict=True)],
    )
    assert found["normals"][1] == 5 * 7 + 3 * 7
    assert {k: v for k, v in values(found).items() if k != "normals"} == pytest.approx(wanted)
    assert wanted["points"] != pytest.approx(whole["points"])


def test_without_a_valid_pixel_all_but_the_sky_is_zero_and_connected():
    truth = make_truth(31)
    truth = replace(truth, valid=torch.zeros_like(truth.valid))
    predicted = with_gradient(wrong(truth))
    logits = torch.zeros(truth.valid.shape, requires_grad=True)
    sky = torch.zeros_like(truth.valid)
    sky[0] = True
    found = losses(predicted, truth, confidence_logits=logits, sky=sky)
    assert found["sky"][1] == 48
    assert found["sky"][0].item() == pytest.approx(48 * math.log(2))
    rest = {name: loss for name, loss in found.items() if name != "sky"}
    assert values(rest) == dict.fromkeys(NAMES | {"confidence"}, 0.0)
    torch.stack([loss for loss, _ in rest.values()]).sum().backward()
    assert all((value.grad == 0).all() for value in (*predicted.values(), logits))
    counts = scene_counts(truth.valid, CONFIG, points_global=True, confidence=True, sky=sky)
    assert counts == {name: count for name, (_, count) in found.items()}
    assert counts["rotation"] == counts["points"] == 0


def test_outliers_in_the_points_leave_the_scale_of_all_other_terms_exact():
    truth = make_truth(61)
    predicted = exact(truth)
    points = predicted["points"].clone()
    points[:, ::3] /= 20  # a third of the rows: the mean distance is off, the median is not
    found = values(losses(scaled(predicted | {"points": points}, 3.0), truth))
    assert found["points"] > 1
    assert found["translation"] == pytest.approx(0, abs=1e-12)
    assert found["global_points"] == pytest.approx(0, abs=1e-9)


def test_sky_counts_where_there_is_no_truth():
    truth = make_truth(67)
    logits = torch.full(truth.valid.shape, 3.0)
    sky = torch.ones_like(truth.valid)
    found = losses(exact(truth), truth, confidence_logits=logits, sky=sky)
    right, wrongly = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    for name, count, each in (
        ("confidence", int(truth.valid.sum()), right),
        ("sky", int((~truth.valid).sum()), wrongly),
    ):
        assert found[name][1] == count > 0
        assert found[name][0].item() == pytest.approx(count * each)
    assert "sky" not in losses(exact(truth), truth, confidence_logits=logits)


def test_a_single_view_has_no_camera_loss():
    truth = make_truth(37, views=1)
    predicted = with_gradient(wrong(truth))
    found = losses(predicted, truth)
    assert found["rotation"][1] == found["translation"][1] == 0
    assert found["points"][0] > 0
    assert (gradients(predicted, found)["poses"] == 0).all()


def test_predictions_all_zero_give_finite_losses():
    truth = make_truth(41)
    poses = torch.eye(4).double().repeat(3, 1, 1)
    zero = {"points": 0 * truth.points, "poses": poses, "points_global": 0 * truth.points}
    predicted = with_gradient(zero)
    found = losses(predicted, truth)
    assert all(math.isfinite(value) for value in values(found).values())
    assert all(torch.isfinite(part).all() for part in gradients(predicted, found).values())


def test_descent_leads_to_the_truth_up_to_scale():
    truth = make_truth(43)
    predicted = with_gradient(scaled(wrong(truth), 5.0))
    optimiser = torch.optim.Adam([predicted["points"], predicted["points_global"]], lr=0.02)
    start = values(losses(predicted, truth))
    for _ in range(80):
        optimiser.zero_grad()
        weighted_total(losses(predicted, truth), CONFIG.weights()).backward()
        optimiser.step()
    end = values(losses(predicted, truth))
    assert end["points"] < 0.2 * start["points"]
    assert end["global_points"] < 0.2 * start["global_points"]
    assert end["normals"] < 0.7 * start["normals"]


def test_weights_are_the_published_ones_and_zero_leaves_a_term_out():
    assert CONFIG.weights() == {
        "points": 1,
        "global_points": 1,
        "normals": 1,
        "rotation": 0.2,
        "translation": pytest.approx(40),
        "confidence": 0.05,
        "sky": 0.05,
    }
    truth = make_truth(47)
    config = SceneLossConfig(normals=0, camera=0)
    assert set(losses(wrong(truth), truth, config)) == {"points", "global_points"}
    assert set(scene_counts(truth.valid, config)) == {"points"}
    with pytest.raises(ValueError, match="camera must be 0 or more, got -1"):
        SceneLossConfig(camera=-1)
    with pytest.raises(ValueError, match="max_points must be 1 or more, got 0"):
        SceneLossConfig(max_points=0)


def test_spike_is_zeroed_with_its_gradient_and_nothing_else_is():
    truth = make_truth(53)
    predicted = with_gradient(wrong(truth))
    plain = losses(predicted, truth)
    total = weighted_total(plain, CONFIG.weights()).item()
    calm = losses(predicted, truth, SceneLossConfig(spike=1.01 * total))
    assert values(calm) == values(plain)
    spike = losses(predicted, truth, SceneLossConfig(spike=0.99 * total))
    assert values(spike) == dict.fromkeys(NAMES, 0.0)
    assert {k: n for k, (_, n) in spike.items()} == {k: n for k, (_, n) in plain.items()}
    assert all((part == 0).all() for part in gradients(predicted, spike).values())
    broken = guard_spikes({"points": (torch.tensor(math.inf), 3.0)}, CONFIG.weights(), 10)
    assert values(broken) == {"points": math.inf}


def test_unlike_shapes_are_refused_by_name():
    truth = make_truth(59)
    predicted = wrong(truth)
    with pytest.raises(ValueError, match="must cover the same pixels"):
        losses(predicted | {"points": predicted["points"][:, :-1]}, truth)
    with pytest.raises(ValueError, match="3 views need poses of shape"):
        losses(predicted | {"poses": predicted["poses"][:2]}, truth)
