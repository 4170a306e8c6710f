"""The order of clips is a function of the step alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.data.stream import ClipStream, MicroBatching, step_batches
from spatialprior.testing import plane_clip, tiny_backbone

ENCODER = tiny_backbone().encoder()


class Named:
    def __init__(self, name):
        self.name = name

    def __len__(self):
        return 5

    def clip(self, index):
        return plane_clip(f"{self.name}{index}", num_views=1)


class NameOnly(Named):
    def clip(self, index):
        return f"{self.name}{index}"


STREAM = ClipStream(Named("g"), Named("i"), clips_per_step=4, instruction_share=0.25)


def order(**options):
    batches = step_batches(
        STREAM, ENCODER, **{"first_step": 0, "steps": 3, "micro_batch": 4, **options}
    )
    return [[name for batch in step for name in batch.clip_ids] for step in batches]


WANTED = [["g0", "g1", "g2", "i0"], ["g3", "g4", "g5", "i1"], ["g6", "g7", "g8", "i2"]]


def test_order_without_options():
    assert order() == WANTED


@pytest.mark.parametrize(
    "options", [{"micro_batch": 1}, {"micro_batch": 3}, {"num_workers": 2, "micro_batch": 2}]
)
def test_micro_batches_and_workers_do_not_matter(options):
    assert order(**options) == WANTED


def test_a_later_start_sees_what_it_would_have_seen():
    assert order(first_step=1) == WANTED[1:]
    assert order(first_step=3) == []


def test_ranks_share_each_step():
    ranks = [order(rank=rank, ranks=2, micro_batch=1) for rank in range(2)]
    for step, wanted in enumerate(WANTED):
        assert sorted(ranks[0][step] + ranks[1][step]) == sorted(wanted)
        assert len(ranks[0][step]) == len(ranks[1][step]) == 2
    with pytest.raises(ValueError, match="clips_per_step=4 does not divide among 3"):
        order(ranks=3)


@given(st.floats(0.01, 0.99), st.integers(1, 300))
def test_interleaving_skips_and_repeats_nothing(share, total):
    stream = ClipStream(NameOnly("g"), NameOnly("i"), 4, share)
    names = [stream.clip(position) for position in range(total)]
    instruction = [name for name in names if name[0] == "i"]
    geometry = [name for name in names if name[0] == "g"]
    assert instruction == [f"i{k}" for k in range(len(instruction))]
    assert geometry == [f"g{k}" for k in range(len(geometry))]
    whole = total - total % 4  # within a step geometry comes first
    assert abs(sum(name[0] == "i" for name in names[:whole]) - share * whole) <= 1


def test_without_instruction_data_all_is_geometry():
    assert ClipStream(NameOnly("g"), None, 4, 0.5).clip(7) == "g7"
    assert ClipStream(NameOnly("g"), NameOnly("i"), 4, 0.0).clip(7) == "g7"


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    clips=st.integers(1, 6),
    tokens=st.integers(1, 120),
)
def test_groups_hold_every_clip_once_within_the_budget(lengths, clips, tokens):
    groups = MicroBatching(clips, tokens).groups(lengths)
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) <= clips
        assert len(group) == 1 or len(group) * max(lengths[k] for k in group) <= tokens
    if clips >= len(lengths) and tokens >= len(lengths) * max(lengths):
        assert len(groups) == 1


def test_a_token_budget_regroups_the_same_clips():
    encoder = tiny_backbone().encoder()
    clips = [plane_clip(f"p{k}", num_views=1 + k % 3) for k in range(6)]
    lengths = [encoder.length(clip) for clip in clips]
    assert lengths == [encoder([clip]).labels.shape[1] for clip in clips]

    class Some:
        def clip(self, index):
            return clips[index % 6]

    budget = 2 * sorted(lengths)[2]  # two of the middling ones, but not two of the longest
    (batches,) = step_batches(
        ClipStream(Some(), None, 6),
        encoder,
        first_step=0,
        steps=1,
        micro_batch=6,
        max_tokens=budget,
    )
    assert sorted(name for batch in batches for name in batch.clip_ids) == [
        f"p{k}" for k in range(6)
    ]
    assert all(batch.labels.numel() <= budget for batch in batches)
    assert len({len(batch.clips) for batch in batches}) > 1
