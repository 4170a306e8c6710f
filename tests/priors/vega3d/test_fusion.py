"""Every fusion against its formula, in float64; what starts as identity; who learns; who sees whom."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialprior.priors.vega3d.cross_attention import sine_cosine
from spatialprior.priors.vega3d.fusion import FUSIONS, make_fusion

FORMS = ("paper", "normed", "residual")
VARIANTS = [
    *(("token_gate", {"form": form}) for form in FORMS),
    *(("channel_gate", {"form": form}) for form in FORMS),
    ("add", {}),
    ("weighted", {}),
    ("channel_concat", {}),
    ("channel_concat", {"normed": True}),
    ("cross_attention", {}),
    ("cross_attention", {"layers": 3}),
    ("only", {}),
]
IDENTITY = [
    *((name, values) for name, values in VARIANTS if values.get("form") == "residual"),
    *((name, {}) for name in ("add", "weighted", "channel_concat", "cross_attention")),
    ("cross_attention", {"layers": 3}),
]


def tokens(count, channels, width, dtype=torch.float64, seed=0, views=3):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(count, n, generator=generator, dtype=dtype) for n in (width, channels)]
    groups = torch.randint(views, (count,), generator=generator) * 7
    return *draw, groups, torch.rand(count, 2, generator=generator)


def nudged(name, channels, width, **values):
    """A fusion in float64 no parameter of which is at a special value."""
    torch.manual_seed(0)
    fusion = make_fusion(name, channels, width, **values).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).double()
    return fusion


# --- formulas, by hand --------------------------------------------------------------------


def linear(p, name, x):
    bias = p.get(f"{name}.bias")
    return x @ p[f"{name}.weight"].T + (0 if bias is None else bias)


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def norm(p, name, x):
    mean = x.mean(-1, keepdim=True)
    spread = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (spread + 1e-5).sqrt() * p[f"{name}.weight"] + p.get(f"{name}.bias", 0)


def position_code(position, width):
    """Of one token, in cells: rows first, sines before cosines."""
    n = width // 4
    code = []
    for value in (position[1], position[0]):
        for function in (math.sin, math.cos):
            code += [function(value / 10000 ** (k / n)) for k in range(n)]
    return torch.tensor(code + [0.0] * (width - 4 * n), dtype=torch.float64)


def attended(p, layer, heads, x, generated, groups, positions):
    """Token by token and head by head."""
    width = x.shape[1] // heads
    code = torch.stack([position_code((14 * xy).tolist(), x.shape[1]) for xy in positions.double()])
    query = linear(p, f"{layer}.query", norm(p, f"{layer}.query_norm", x) + code)
    key = linear(p, f"{layer}.key", norm(p, f"{layer}.key_norm", generated) + code)
    value = linear(p, f"{layer}.value", norm(p, f"{layer}.value_norm", generated))
    answers = torch.zeros_like(x)
    for t, group in enumerate(groups):
        seen = (groups == group).nonzero()[:, 0]
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = (key[seen, part] @ query[t, part] / math.sqrt(width)).exp()
            answers[t, part] = weights / weights.sum() @ value[seen, part]
    x = x + linear(p, f"{layer}.out", answers)
    hidden = gelu(linear(p, f"{layer}.expand", norm(p, f"{layer}.mlp_norm", x)))
    return x + linear(p, f"{layer}.contract", hidden)


def reference(name, values, fusion, semantic, generative, groups, positions):
    p = dict(fusion.named_parameters())
    generated = linear(p, "projector.mix", gelu(linear(p, "projector.expand", generative)))
    if name == "add":
        return semantic + generated
    if name == "only":
        return generated
    if name == "weighted":
        a, b = p["weights"]
        return (a * semantic + b * generated) / (a + b)
    if name == "cross_attention":
        heads = max(n for n in range(1, 9) if semantic.shape[1] % n == 0)
        for i in range(values.get("layers", 1)):
            semantic = attended(p, f"layers.{i}", heads, semantic, generated, groups, positions)
        return semantic
    if name == "channel_concat" and not values.get("normed"):
        return linear(p, "join", torch.cat([semantic, generated], -1))
    normed = norm(p, "semantic_norm", semantic), norm(p, "generative_norm", generated)
    if name == "channel_concat":
        return linear(p, "join", torch.cat(normed, -1))
    gate = 1 / (1 + (-linear(p, "gate", torch.cat(normed, -1))).exp())
    if values["form"] == "normed":
        return gate * normed[0] + (1 - gate) * normed[1]
    blend = gate * semantic + (1 - gate) * generated
    return blend if values["form"] == "paper" else semantic + p["alpha"] * (blend - semantic)


@pytest.mark.parametrize(("name", "values"), VARIANTS)
@given(
    count=st.integers(1, 9),
    channels=st.integers(1, 7),
    width=st.integers(2, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_formulas(name, values, count, channels, width, seed):
    inputs = tokens(count, channels, width, seed=seed)
    fusion = nudged(name, channels, width, **values)
    found = fusion(*inputs)
    assert found.shape == (count, width)
    expected = reference(name, values, fusion, *inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# --- start --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "values"), IDENTITY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_is_exact(name, values, dtype):
    fusion = make_fusion(name, 6, 24, **values)
    assert fusion.identity_at_attach
    semantic, *others = tokens(40, 6, 24, torch.float32)
    semantic = (semantic * 100).to(dtype)
    found = fusion(semantic, *others)
    whole = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(found.view(whole), semantic.view(whole))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(variant for variant in VARIANTS if variant not in IDENTITY),
        *((name, {**values, "init": "released"}) for name, values in IDENTITY),
    ],
)
def test_what_is_no_identity_says_so(name, values):
    fusion = make_fusion(name, 6, 24, **values)
    assert not fusion.identity_at_attach
    semantic, *others = tokens(40, 6, 24, torch.float32)
    assert not torch.allclose(fusion(semantic, *others), semantic)


@pytest.mark.parametrize(("name", "values"), IDENTITY)
def test_identity_learns_to_use_the_generative_features(name, values):
    torch.manual_seed(0)
    fusion = make_fusion(name, 6, 24, **values)
    inputs = tokens(40, 6, 24, torch.float32)
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        fusion(*inputs).square().sum().div(40).backward()
        optimizer.step()
    assert fusion.projector.expand.weight.grad.any()
    changed = fusion(inputs[0], inputs[1] + 1, *inputs[2:])
    assert not torch.equal(changed, fusion(*inputs))


def test_released_start():
    torch.manual_seed(0)
    gate = make_fusion("token_gate", 300, 300, form="residual", init="released", gate_bias=-0.5)
    assert gate.alpha.item() == pytest.approx(0.2)
    assert gate.gate.bias.item() == -0.5
    assert gate.projector.mix.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert gate.gate.weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not gate.projector.mix.bias.any() and not gate.projector.expand.bias.any()
    weighted = make_fusion("weighted", 3, 4, init="released")
    assert weighted.weights.tolist() == [0.5, 0.5]


def test_a_large_gate_bias_begins_near_the_semantic_tokens():
    inputs = tokens(20, 6, 24, torch.float32)
    near = make_fusion("token_gate", 6, 24, form="paper", gate_bias=12.0)(*inputs)
    torch.testing.assert_close(near, inputs[0], rtol=0, atol=1e-3)


# --- parameters and gradients -------------------------------------------------------------


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    channels, width = 1536, 3584
    with torch.device("meta"):
        token = make_fusion("token_gate", channels, width)
        channel = make_fusion("channel_gate", channels, width)
    projector = channels * width + width * width + 2 * width
    assert size(token.projector) == projector
    assert projector == pytest.approx(18.4e6, rel=0.01)
    assert size(token) == projector + (2 * width + 1) + 4 * width
    assert size(channel) == projector + (2 * width + 1) * width + 4 * width


@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_every_parameter_learns(name, values):
    fusion = nudged(name, 5, 12, **values)
    inputs = tokens(20, 5, 12)
    (fusion(*inputs) * torch.randn(20, 12).double()).sum().backward()
    for key, parameter in fusion.named_parameters():
        assert parameter.requires_grad and parameter.dim() > 0, key
        # Of a dead parameter rounding leaves about 1e-16.
        assert parameter.grad.abs().max() > 1e-9, key


@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_a_batch_without_visual_tokens_is_connected_to_every_parameter(name, values):
    fusion = nudged(name, 5, 12, **values)
    found = fusion(*tokens(0, 5, 12))
    assert found.shape == (0, 12)
    found.sum().backward()
    for key, parameter in fusion.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), key


# --- who sees whom ------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "values"), VARIANTS)
def test_nothing_crosses_from_view_to_view(name, values):
    semantic, generative, groups, positions = tokens(30, 5, 12)
    generative.requires_grad_()
    fusion = nudged(name, 5, 12, **values)
    out = fusion(semantic, generative, groups, positions)
    (gradient,) = torch.autograd.grad(out[groups == groups[0]].square().sum(), generative)
    touched = gradient.any(-1)
    assert torch.equal(touched, groups == groups[0])
    (gradient,) = torch.autograd.grad(
        fusion(semantic, generative, groups, positions)[0].sum(), generative
    )
    expected = groups == groups[0] if name == "cross_attention" else torch.arange(30) == 0
    assert torch.equal(gradient.any(-1), expected)


@given(count=st.integers(1, 30), views=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_cross_attention_gives_a_view_what_it_gives_it_alone(count, views, seed):
    semantic, generative, groups, positions = tokens(count, 5, 12, seed=seed, views=views)
    fusion = nudged("cross_attention", 5, 12, layers=2)
    whole = fusion(semantic, generative, groups, positions)
    for group in groups.unique():
        own = groups == group
        alone = fusion(semantic[own], generative[own], groups[own], positions[own])
        torch.testing.assert_close(whole[own], alone, rtol=1e-10, atol=1e-10)


def test_equally_long_views_need_no_mask():
    semantic, generative, _, positions = tokens(24, 5, 12)
    fusion = nudged("cross_attention", 5, 12)
    groups = torch.arange(24) % 4
    found = fusion(semantic, generative, groups, positions)
    inputs = (semantic, generative, groups, positions)
    torch.testing.assert_close(
        found, reference("cross_attention", {}, fusion, *inputs), rtol=1e-10, atol=1e-10
    )


def test_position_code_on_the_released_grid():
    code = sine_cosine(torch.tensor([[3.0, 5.0]]).double(), 8)[0]
    angles = [5, 5 / 100, 3, 3 / 100]
    rows = [math.sin(a) for a in angles[:2]] + [math.cos(a) for a in angles[:2]]
    cols = [math.sin(a) for a in angles[2:]] + [math.cos(a) for a in angles[2:]]
    torch.testing.assert_close(code, torch.tensor(rows + cols, dtype=torch.float64))
    assert sine_cosine(torch.rand(2, 2), 3).tolist() == [[0.0] * 3] * 2


def test_dropout_acts_in_training_alone():
    fusion = nudged("cross_attention", 5, 12, dropout=0.1)
    inputs = tokens(20, 5, 12)
    assert not torch.equal(fusion(*inputs), fusion(*inputs))
    fusion.eval()
    assert torch.equal(fusion(*inputs), fusion(*inputs))
    plain = nudged("cross_attention", 5, 12)
    assert plain.training and torch.equal(plain(*inputs), fusion(*inputs))


# --- names and settings -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("token_gated", {}, "did you mean token_gate? Choose from: add, channel_concat"),
        ("add", {"form": "paper"}, "fusion 'add' has no setting 'form'; choose from: init"),
        ("token_gate", {"form": "raw"}, "form='raw'; choose from: paper, normed, residual"),
        ("weighted", {"init": "zero"}, "init='zero'; choose from: identity, released"),
        ("cross_attention", {"heads": 5}, "heads=5 must divide the width 12"),
        ("cross_attention", {"layers": 0}, "layers=0 must be at least 1"),
    ],
)
def test_errors_are_one_line(name, values, message):
    with pytest.raises(ValueError) as raised:
        make_fusion(name, 5, 12, **values)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_errors_of_the_input():
    semantic, generative, groups, positions = tokens(20, 5, 12)
    with pytest.raises(ValueError, match="20 semantic but 19 generative"):
        nudged("add", 5, 12)(semantic, generative[:19], groups, positions)
    with pytest.raises(ValueError, match="needs the positions"):
        nudged("cross_attention", 5, 12)(semantic, generative, groups)
    assert {name for name, _ in VARIANTS} == set(FUSIONS)
