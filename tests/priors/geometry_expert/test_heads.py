"""Heads: shapes, which image sees which, where a cell's pixels go, where they start, how large they are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.decoder import PatchDecoder
from spatialprior.priors.geometry_expert.heads.geometry_heads import GeometryHeads
from spatialprior.priors.geometry_expert.heads.output import PixelHead

GRID, PATCH, IN = (3, 5), 4, 24
SMALL = HeadsConfig(width=16, blocks=2, heads=2, point_width=12, camera_width=8, confidence=True)


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return GeometryHeads(IN, PATCH, SMALL)


def tokens(images=3, grid=GRID, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, grid[0] * grid[1], IN, generator=generator)


def outputs(heads, x, first=None):
    first = x[:1].expand_as(x) if first is None else first
    return {
        "points": heads.points(x, GRID),
        "camera": heads.camera(x, GRID),
        "global_points": heads.global_points(x, first, GRID),
        "confidence": heads.confidence(x, GRID),
    }


def shaken(heads):
    """The same heads with output weights that are not small any more."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return heads


# --- shapes, types, start -----------------------------------------------------------------


def test_shapes_of_a_grid_that_is_not_square(heads):
    height, width = GRID[0] * PATCH, GRID[1] * PATCH
    shapes = {name: tuple(out.shape) for name, out in outputs(heads, tokens()).items()}
    assert shapes == {
        "points": (3, height, width, 3),
        "camera": (3, 4, 4),
        "global_points": (3, height, width, 3),
        "confidence": (3, height, width),
    }


def test_start_is_depth_one_seen_from_the_origin(heads):
    out = outputs(heads, tokens())
    target = torch.tensor([0.0, 0.0, 1.0])
    for name in ("points", "global_points"):
        assert (out[name] - target).abs().max() < 0.1
    assert (out["camera"] - torch.eye(4)).abs().max() < 0.1
    assert out["confidence"].abs().max() < 0.1


@pytest.mark.parametrize("cast", ["autocast", "weights"])
def test_outputs_are_float32_in_bfloat16(heads, cast):
    shaken(heads)
    if cast == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            out = outputs(heads, tokens())
    else:
        out = outputs(heads.bfloat16(), tokens().bfloat16())
    assert {value.dtype for value in out.values()} == {torch.float32}
    rotation = out["camera"][:, :3, :3]
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0
    )


def test_points_are_the_slopes_and_the_exponential(heads):
    with torch.no_grad():
        heads.points.pixels.weight.zero_()
        bias = torch.tensor([0.5, -2.0, math.log(3.0)]).repeat_interleave(PATCH**2)
        heads.points.pixels.bias.copy_(bias)
    points = heads.points(tokens(), GRID)
    torch.testing.assert_close(points, torch.tensor([1.5, -6.0, 3.0]).expand_as(points))


@pytest.mark.parametrize("log_depth", [1e4, -1e4])
def test_depth_stays_finite_and_positive(heads, log_depth):
    with torch.no_grad():
        heads.points.pixels.bias[-(PATCH**2) :] = log_depth
    x = tokens().requires_grad_()
    points = heads.points(x, GRID)
    points.sum().backward()
    assert points.isfinite().all() and (points[..., 2] > 0).all()
    assert x.grad.isfinite().all()


def test_every_weight_learns(heads):
    out = outputs(shaken(heads), tokens())
    sum((value * torch.randn_like(value)).sum() for value in out.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


# --- who sees whom ------------------------------------------------------------------------


def test_an_image_does_not_depend_on_the_others_of_the_batch(heads):
    shaken(heads).double()
    x = tokens().double()
    first = tokens(seed=5).double()
    changed, changed_first = x.clone(), first.clone()
    changed[[0, 2]] += 1
    changed_first[[0, 2]] += 1
    before, after = outputs(heads, x, first), outputs(heads, changed, changed_first)
    for name in before:
        torch.testing.assert_close(after[name][1], before[name][1])
        assert not torch.allclose(after[name][0], before[name][0])


def test_global_points_look_at_the_first_view(heads):
    shaken(heads)
    x = tokens()
    before, after = (heads.global_points(x, x[[i]].expand_as(x), GRID) for i in (0, 1))
    assert ((after - before).abs().amax((1, 2, 3)) > 1e-4).all()


def test_patches_of_an_image_see_each_other_and_their_places(heads):
    shaken(heads)
    x = tokens(1)
    changed = x.clone()
    changed[0, 0] += 1
    cell = (slice(None), slice(-PATCH, None), slice(-PATCH, None))  # the last patch
    points = heads.points(x, GRID)
    assert not torch.allclose(heads.points(changed, GRID)[cell], points[cell])
    # Transposed grid: the same tokens at other places.
    turned = heads.points.decoder(x, GRID[::-1])
    assert not torch.allclose(turned, heads.points.decoder(x, GRID))


# --- formulas -----------------------------------------------------------------------------


def test_block_against_its_formula():
    """Without positions (a grid of one patch has angle 0), attention to one patch is its value."""
    torch.manual_seed(0)
    decoder = shaken(PatchDecoder(6, 8, 5, blocks=1, heads=2, context=True)).double()
    x, first = torch.randn(2, 2, 1, 6, dtype=torch.float64)
    p = dict(decoder.named_parameters())

    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        mean = x.mean(-1, keepdim=True)
        spread = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / (spread + 1e-6).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attended(name, x):
        return linear(f"{name}.out", linear(f"{name}.value", x))

    h, context = linear("project", x), linear("project_context", first)
    h = h + attended("blocks.0.attention", norm("blocks.0.attention_norm", h))
    h = h + attended("blocks.0.cross", norm("blocks.0.context_norm", context))
    inner = linear("blocks.0.mlp.expand", norm("blocks.0.mlp_norm", h))
    gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    expected = linear("out", h + linear("blocks.0.mlp.contract", gelu))
    torch.testing.assert_close(decoder(x, (1, 1), first), expected)


def test_camera_head_against_its_formula(heads):
    camera = shaken(heads).camera
    x = camera.decoder(tokens(), GRID)
    for block in camera.residual:
        y = x
        for module in block.maps:
            y = F.linear(y, module.weight, module.bias).relu()
        x = x + y
    x = x.mean(1)
    for module in camera.hidden:
        x = F.linear(x, module.weight, module.bias).relu()
    translation = F.linear(x, camera.translation.weight, camera.translation.bias)
    pose = camera(tokens(), GRID)
    torch.testing.assert_close(pose[:, :3, 3], translation)
    assert pose[:, 3].tolist() == [[0, 0, 0, 1]] * 3


def test_pixels_of_a_cell_lie_in_its_cell():
    """Channel c of pixel (y, x) of patch (r, q) is marked with a number of all five."""
    head = PixelHead(GRID[0] * GRID[1], (0.0, 0.0), PATCH)
    features = torch.eye(15)[None]  # patch i switches on column i of the weights
    marks = torch.arange(2 * PATCH**2)[:, None] * 100 + torch.arange(15)
    with torch.no_grad():
        head.weight.copy_(marks)
    out = head.on_grid(features, GRID)[0]
    for (row, col), c, y, x in [((0, 0), 0, 0, 0), ((1, 3), 1, 2, 3), ((2, 4), 0, 3, 1)]:
        expected = (c * PATCH**2 + y * PATCH + x) * 100 + row * GRID[1] + col
        assert out[row * PATCH + y, col * PATCH + x, c].item() == expected
    shuffled = F.pixel_shuffle(head(features).mT.unflatten(-1, GRID), PATCH)
    torch.testing.assert_close(out, shuffled[0].permute(1, 2, 0))


# --- size and checks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width_in", "width", "native", "count"),
    [
        (1536, 1536, True, 0.48e9),
        (1536, 1024, False, 0.22e9),
        (2048, 2048, True, 0.85e9),
        (2048, 1024, False, 0.22e9),
        (3584, 3584, True, 2.58e9),
        (3584, 1024, False, 0.23e9),
    ],
)
def test_sizes_of_the_fact_sheet(width_in, width, native, count):
    """g2vlm.md section 8 counts native heads without the decoders' first maps, narrow ones with them."""
    with torch.device("meta"):
        heads = GeometryHeads(width_in, 14, HeadsConfig(width=width))
    sizes = {name: parameter.numel() for name, parameter in heads.named_parameters()}
    first_maps = sum(size for name, size in sizes.items() if ".decoder.project" in name)
    assert first_maps == 4 * (width_in * width + width)
    total = sum(sizes.values()) - (first_maps if native else 0)
    assert total == pytest.approx(count, abs=0.005e9)
    assert sum(sizes.values()) == pytest.approx(count, rel=0.025)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 100, "heads": 16}, "heads=16 must divide width=100"),
        ({"width": 96, "heads": 16}, "6 channels a head"),
        ({"heads": 0}, "heads=0 must divide"),
        ({"blocks": 0}, "blocks=0 must be at least 1"),
        ({"point_width": 0}, "point_width=0 must be"),
    ],
)
def test_wrong_settings_are_one_line(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        HeadsConfig(**values)
    assert "\n" not in str(caught.value)


def test_wrong_inputs_are_one_line(heads):
    x = tokens()
    with pytest.raises(ValueError, match="15 tokens an image do not fill a grid of 4 x 4"):
        heads.points(x, (4, 4))
    with pytest.raises(ValueError, match="needs the tokens of the first view"):
        heads.global_points.decoder(x, GRID)
    with pytest.raises(ValueError, match="takes no tokens of the first view"):
        heads.points.decoder(x, GRID, x)
    with pytest.raises(ValueError, match="give every image its own copy"):
        heads.global_points(x, x[:1], GRID)


def test_switched_off_heads_are_not_there():
    heads = GeometryHeads(IN, PATCH, HeadsConfig(width=16, heads=2, global_points=False))
    assert heads.global_points is None and heads.confidence is None
    assert {name.split(".")[0] for name in heads.state_dict()} == {"points", "camera"}
