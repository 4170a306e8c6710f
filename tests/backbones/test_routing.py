"""Reserved tokens: where they stand, whom they see, and the path that a router sends them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spatialprior.backbones.reserved import attention_mask, placed
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.reserve import Reserve
from spatialprior.core.sites import FINAL_HIDDEN, RESERVED_TOKENS
from spatialprior.testing import plane_clip, tiny_backbone

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision"]


def grid(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 32, size[1] // 32


def box(size: tuple[int, int]) -> tuple[float, float, float, float]:
    return 0.0, 0.0, float(size[1]), float(size[0])


def reserving(kind: str = "qwen2_5_vl", **settings):
    backbone = tiny_backbone(kind=kind).eval()
    backbone.reserve = Reserve(grid, box, **settings)
    return backbone


def clips() -> list:
    return [
        plane_clip("a", num_views=3, size=(64, 96)),
        plane_clip("b", num_views=2, questions=(("Is it far?", "yes"), ("How many?", "two"))),
        replace(plane_clip("text", num_views=1), images=(), frame_ids=()),
    ]


class Same(nn.Module):
    """A twin that does what the stock part does."""

    def forward(self, part: str, tokens: Tensor, stock: nn.Module) -> Tensor:
        return type(stock).forward(stock, tokens)


class Scaled(Same):
    """A twin with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.1))

    def forward(self, part: str, tokens: Tensor, stock: nn.Module) -> Tensor:
        return self.gain * super().forward(part, tokens, stock)


def scaled(backbone, twin: type[nn.Module] = Scaled) -> nn.ModuleList:
    twins = nn.ModuleList(twin() for _ in range(backbone.num_layers + 1))
    backbone.route(list(twins)[:-1], twins[-1])
    return twins


# --- where they stand ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_block_stands_before_the_first_view(kind: str) -> None:
    encoder = reserving(kind).encoder()
    batch = encoder(clips())
    reserved = batch.reserved
    assert reserved is not None
    assert reserved.token_map.grid.tolist() == [
        [[2, 3]] * 3,
        [[2, 2], [2, 2], [0, 0]],
        [[0, 0]] * 3,
    ]
    for b in range(2):
        first_view = int(batch.visual[b].nonzero()[0])
        own = reserved.patches[b].nonzero().squeeze(1)
        assert own[-1] < first_view
        # Nothing but markers between the block's tokens and the views.
        between = batch.inputs["input_ids"][b, own[-1] + 1 : first_view].tolist()
        before, behind = encoder.view_markers
        assert between == behind + before
        assert torch.equal(reserved.token_map.index[b][reserved.token_map.valid[b]], own)
        assert (batch.labels[b, own] == -100).all()
    assert not reserved.patches[2].any()
    lengths = [encoder.length(clip) for clip in clips()]
    assert lengths == batch.inputs["attention_mask"].sum(1).tolist()


def test_without_the_block_a_row_is_what_it_was() -> None:
    plain = tiny_backbone().encoder()(clips())
    batch = reserving().encoder()(clips())
    assert batch.reserved is not None
    for b in range(3):
        kept = (batch.reserved.view[b] < 0) & (batch.inputs["attention_mask"][b] > 0)
        ids = plain.inputs["input_ids"][b][plain.inputs["attention_mask"][b] > 0]
        assert torch.equal(batch.inputs["input_ids"][b, kept], ids)


def test_alone_leaves_the_views_out() -> None:
    batch = reserving(alone=True).encoder()(clips())
    assert "pixel_values" not in batch.inputs
    assert not batch.visual.any()
    assert batch.reserved is not None
    assert batch.reserved.patches.sum(1).tolist() == [18, 8, 0]
    assert not batch.has_labels
    # The block stands where the views would: behind the opening.
    ids = batch.inputs["input_ids"][0].tolist()
    own = batch.reserved.view[0].ge(0).nonzero().squeeze(1)
    bare = [token for place, token in enumerate(ids) if place not in own.tolist()]
    text = tiny_backbone().encoder()([MultiViewClip("a", "a", (), ())])
    assert bare == text.inputs["input_ids"][0].tolist()
    assert int(own[0]) == len(bare) > 0


@given(
    grids=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    sequential=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_positions_are_those_the_family_gives_to_views(grids: list, sequential: bool) -> None:
    """Sequential: what the stock class counts for images of the same grids."""
    backbone = reserving(positions="sequential" if sequential else "shared")
    sizes = [(32 * rows, 32 * cols) for rows, cols in grids]
    views = tuple(torch.zeros(3, *one, dtype=torch.uint8) for one in sizes)
    clip = replace(
        plane_clip("a", num_views=1),
        images=views,
        frame_ids=tuple(range(len(views))),
        depth=None,
        intrinsics=None,
        world_to_cam=None,
        depth_valid=None,
    )
    batch = backbone.encoder()([clip])
    positions = backbone.position_ids(batch)
    assert batch.reserved is not None
    own = [
        positions[:, 0, batch.reserved.token_map.index[0, v, : rows * cols]]
        for v, (rows, cols) in enumerate(grids)
    ]
    start = int(positions[0, 0, batch.reserved.view[0].ge(0).nonzero()[0]])
    running, ends = start, []
    for (rows, cols), found in zip(grids, own, strict=True):
        cell = torch.arange(rows * cols)
        expected = running + 1 + torch.stack([0 * cell, cell // cols, cell % cols])
        assert torch.equal(found, expected)
        ends.append(running + 2 + max(rows, cols))
        running = ends[-1] if sequential else start
    behind = int(batch.reserved.view[0].ge(0).nonzero()[-1]) + 1
    assert positions[:, 0, behind].tolist() == [max(ends)] * 3


def test_sequential_blocks_count_as_the_same_images_would() -> None:
    """Against the stock class: a clip's views given twice, the first copy as the block."""
    backbone = tiny_backbone()
    clip = plane_clip("a", num_views=2, size=(64, 96))
    twice = replace(
        clip,
        images=torch.cat([clip.images, clip.images]),
        frame_ids=(0, 1, 2, 3),
        depth=None,
        intrinsics=None,
        world_to_cam=None,
        depth_valid=None,
    )
    stock = backbone.encoder()([twice])
    cells = tuple(stock.token_map.grid[0, 0].tolist())
    backbone.reserve = Reserve(lambda size: cells, box, positions="sequential")
    ours = backbone.encoder()([clip])
    assert torch.equal(backbone.position_ids(ours), backbone.position_ids(stock))


# --- whom they see ------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["global", "frame", "frame_causal", "mixed"])
@pytest.mark.parametrize("left", [False, True])
def test_who_sees_whom(attention: str, left: bool) -> None:
    backbone = reserving(attention=attention)
    encoder = backbone.encoder()
    batch = (
        encoder.prompts([clips()[0], plane_clip("b", num_views=1)]) if left else encoder(clips())
    )
    assert batch.reserved is not None
    mask = attention_mask(batch, torch.float32, training=True)[:, 0] == 0
    for b, name in enumerate(batch.clip_ids):
        view = batch.reserved.view[b].tolist()
        real = batch.inputs["attention_mask"][b].tolist()
        branches = [0] * len(real) if batch.branches is None else batch.branches[b].tolist()
        whole = {
            "global": True,
            "frame": False,
            "frame_causal": None,
            "mixed": _drawn(batch, b),
        }[attention]
        for query in range(len(real)):
            for key in range(len(real)):
                causal = key <= query and branches[key] in (0, branches[query])
                expected = causal
                if view[query] >= 0 and view[key] >= 0:
                    same = view[query] == view[key]
                    expected = same or (causal if whole is None else whole)
                if not real[query]:  # padding is read by nobody
                    continue
                expected = expected and bool(real[key])
                assert bool(mask[b, query, key]) == expected, (name, query, key)


def _drawn(batch, b: int) -> bool:
    """Whether this clip's draw lets every view see every other, read off two tokens of different views."""
    mask = attention_mask(batch, torch.float32, training=True)[b, 0] == 0
    index = batch.reserved.token_map.index[b]
    if not batch.reserved.token_map.valid[b, 1:2].any():
        return False
    return bool(mask[int(index[0, 0]), int(index[1, 0])])


def test_mixed_is_drawn_by_clip_and_step_and_global_in_evaluation() -> None:
    batch = reserving(attention="mixed").encoder()([plane_clip("a")])
    drawn = {step: _drawn(replace(batch, step=step), 0) for step in range(40)}
    assert 5 < sum(drawn.values()) < 35
    assert drawn == {step: _drawn(replace(batch, step=step), 0) for step in range(40)}
    assert batch.reserved is not None
    whole = replace(batch, reserved=replace(batch.reserved, attention="global"))
    evaluated = attention_mask(batch, torch.float32, training=False)
    assert torch.equal(evaluated, attention_mask(whole, torch.float32, training=False))


# --- their path ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_same_twin_changes_nothing(kind: str) -> None:
    backbone = reserving(kind).double()
    batch = backbone.encoder()(clips())
    stock = backbone(batch).hidden
    scaled(backbone, Same)
    # The families' norms work in float32, row by row.
    assert torch.allclose(backbone(batch).hidden, stock, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
def test_without_reserved_tokens_the_pass_is_stock_to_the_bit(kind: str) -> None:
    backbone = reserving(kind)
    text = backbone.encoder()([clips()[2]])
    stock = backbone(text).hidden
    twins = scaled(backbone)
    routed = backbone(text).hidden
    assert torch.equal(routed, stock)
    routed.sum().backward()  # and yet every twin has its (zero) gradient, for processes in lockstep
    assert all(twin.gain.grad == 0 for twin in twins)


def test_only_the_reserved_take_the_path() -> None:
    backbone = reserving()
    batch = backbone.encoder()(clips())
    assert batch.reserved is not None
    stock = backbone(batch, tap_sites=["residual_out[0]", FINAL_HIDDEN])
    scaled(backbone)
    routed = backbone(batch, tap_sites=["residual_out[0]", FINAL_HIDDEN])
    assert torch.equal(routed.taps[FINAL_HIDDEN], routed.hidden)
    text = torch.ones_like(batch.reserved.patches)
    first = batch.reserved.view[0].ge(0).nonzero()[0]
    text[0, first:] = text[1, first:] = False
    same = (stock.hidden == routed.hidden).all(-1)
    assert same[text].all(), "tokens before the block cannot see it"
    assert not same[batch.reserved.patches].any()
    assert not same[0, -1], "the answer sees the block through attention"


def test_unroute_restores_every_module() -> None:
    backbone = reserving()
    batch = backbone.encoder()(clips())
    stock, keys = backbone(batch).hidden, list(backbone.state_dict())
    classes = [type(module) for module in backbone.modules()]
    own = [set(module.__dict__) for module in backbone.modules()]
    scaled(backbone)
    assert list(backbone.state_dict()) == keys
    with pytest.raises(ValueError, match="one prior a model"):
        backbone.route([], nn.Identity())
    backbone.unroute()
    backbone.unroute()
    assert [type(module) for module in backbone.modules()] == classes
    assert [set(module.__dict__) for module in backbone.modules()] == own
    assert torch.equal(backbone(batch).hidden, stock)


@pytest.mark.parametrize("checkpointing", ["nonreentrant", "reentrant"])
def test_checkpointed_gradients_are_exact_whatever_runs_in_between(checkpointing: str) -> None:
    def gradients(kind: str) -> list[Tensor]:
        backbone = reserving().train()
        backbone.set_gradient_checkpointing(kind)
        twins = scaled(backbone)
        batch = backbone.encoder()(clips())
        edits = {RESERVED_TOKENS: [lambda tokens: tokens + 0.3]}
        hidden = backbone(batch, edits=edits).hidden
        other = backbone.encoder()([plane_clip("c", num_views=1)])
        with torch.no_grad():
            backbone(other)  # another pass must not change which rows are recomputed
        hidden.square().mean().backward()
        return [p.grad for p in (*twins.parameters(), *backbone.parameters()) if p.requires_grad]

    for plain, again in zip(gradients("none"), gradients(checkpointing), strict=True):
        assert (plain is None) == (again is None)
        assert plain is None or torch.equal(plain, again)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("positions", ["shared", "sequential"])
def test_prefill_and_cached_steps_equal_full_passes(kind: str, positions: str) -> None:
    backbone = reserving(kind, positions=positions)
    scaled(backbone)
    prompts = [plane_clip("a", num_views=3, size=(64, 96)), plane_clip("b", num_views=2)]
    batch = backbone.encoder().prompts(prompts)
    shift = {RESERVED_TOKENS: [lambda tokens: tokens + 0.5]}
    backbone.editor = lambda batch: shift
    with torch.no_grad(), backbone.edited(batch):
        out = backbone.hf.generate(
            **batch.inputs,
            do_sample=False,
            min_new_tokens=4,
            max_new_tokens=4,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = out.sequences[:, -4:]
    for step in range(4):
        with torch.no_grad():
            longer = extended(batch, tokens[:, :step])
            full = backbone.logits(backbone(longer).hidden[:, -1])
        assert torch.allclose(out.logits[step], full, atol=2e-5), step


def extended(batch, tokens: Tensor):
    """A left-padded batch with tokens behind it."""
    count = tokens.shape[1]

    def longer(values: Tensor, fill: int) -> Tensor:
        return torch.cat([values, values.new_full((len(values), count), fill)], dim=1)

    inputs = dict(batch.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
    for name, fill in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        if name in inputs:
            inputs[name] = longer(inputs[name], fill)
    reserved = replace(
        batch.reserved,
        patches=longer(batch.reserved.patches, 0),
        view=longer(batch.reserved.view, -1),
    )
    return replace(
        batch,
        inputs=inputs,
        labels=longer(batch.labels, -100),
        visual=longer(batch.visual, 0),
        reserved=reserved,
    )


def test_flash_attention_is_refused_in_one_line() -> None:
    backbone = reserving()
    batch = backbone.encoder()([plane_clip("a")])
    backbone.hf.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"set backbone\.attention=sdpa"):
        backbone(batch)


def test_placed_keeps_what_comes_before() -> None:
    backbone = reserving()
    batch = backbone.encoder()(clips())
    before = backbone.stock_positions(batch)
    after, shift = placed(before, batch.reserved)
    assert shift[2] == 0
    assert torch.equal(after[:, 2], before[:, 2])
    first = int(batch.reserved.view[0].ge(0).nonzero()[0])
    assert torch.equal(after[:, 0, : first + 1], before[:, 0, : first + 1])


def test_bare_is_stock_inside_and_routed_again_afterwards() -> None:
    backbone = reserving()
    batch = backbone.encoder()(clips())
    stock = backbone(batch).hidden
    scaled(backbone)
    backbone.editor = lambda batch: {RESERVED_TOKENS: [lambda tokens: tokens + 0.5]}
    routed, reserve = backbone(batch).hidden, backbone.reserve
    with pytest.raises(RuntimeError, match="inside"), backbone.bare():
        assert backbone.encoder()(clips()).reserved is None
        assert torch.equal(backbone(batch).hidden, stock)
        scaled(backbone)  # others may be attached, and are gone afterwards
        raise RuntimeError("inside")
    assert backbone.reserve is reserve
    assert torch.equal(backbone(batch).hidden, routed)
    backbone.editor = None
    backbone.unroute()
    assert torch.equal(backbone(batch).hidden, stock)
