"""Mixtures: exact shares, complete passes, and an order that depends on seed and index alone."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialprior.data.interleave import MAX_ROUND, Interleave
from spatialprior.data.mixture import Mixture, MixtureClips, Source
from spatialprior.data.shuffled import ShuffledPasses
from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.registry import DATASETS
from spatialprior.testing import plane_clip, tiny_backbone

WEIGHTS = st.lists(st.integers(1, 60), min_size=1, max_size=7)


class Named:
    """Clips that only have a name; ``passes`` keeps what was asked for."""

    has_geometry, has_questions = False, True

    @dataclass
    class Config:
        name: str = "n"
        length: int = 5

        def __post_init__(self):
            if self.length < 1:
                raise ValueError(f"length={self.length}: must be positive")

    def __init__(self, config):
        self.config = config

    def split(self, name, seed):
        return self

    def __len__(self):
        return self.config.length

    def clip(self, index):
        return plane_clip(f"{self.config.name}{index}", num_views=1)


class NameOnly(Named):
    def clip(self, index):
        return self.config.name, index


def mixture(lengths, weights, seed=0):
    clips = {f"s{i}": NameOnly(Named.Config(f"s{i}", n)) for i, n in enumerate(lengths)}
    return MixtureClips(clips, list(weights), seed)


@settings(deadline=None)
@given(WEIGHTS, st.integers(0, 400))
def test_after_any_number_of_draws_each_source_has_its_share(weights, draws):
    order = Interleave(weights)
    counts = Counter()
    for position in range(draws):
        source, before = order[position]
        assert before == counts[source]
        counts[source] += 1
        for i, weight in enumerate(weights):
            assert abs(counts[i] - (position + 1) * weight / sum(weights)) < 1
    far = 10**12  # a long run, looked up at once
    source, before = order[far]
    assert abs(before - far * weights[source] / sum(weights)) < 1


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.25, 1 / 8, 2.5, 3, 1e-3]), min_size=1, max_size=5))
def test_decimal_weights_are_what_they_say(weights):
    order = Interleave(weights)
    counts = Counter(order[position][0] for position in range(order.round))
    for i, weight in enumerate(weights):
        assert counts[i] == pytest.approx(order.round * weight / sum(weights), rel=1e-9)


def test_weights_without_a_round_are_refused_with_a_proposal():
    with pytest.raises(
        ValueError, match=f"more than {MAX_ROUND}; round them, for example to 400, 600"
    ):
        Interleave([1 / 3, 0.5])


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(0, 3), st.integers(0, 10))
def test_every_pass_is_a_permutation(length, seed, lap):
    order = ShuffledPasses(length, seed)
    assert sorted(order[lap * length + i] for i in range(length)) == list(range(length))


def test_passes_differ_and_look_drawn():
    order = ShuffledPasses(4, "seed")
    passes = Counter(tuple(order[4 * lap + i] for i in range(4)) for lap in range(2400))
    assert len(passes) == 24 and min(passes.values()) > 50 and max(passes.values()) < 160
    large = ShuffledPasses(1_000_000, 0)
    values = torch.tensor([large[i] for i in range(5000)], dtype=torch.float64)
    assert abs(values.mean() / 1e6 - 0.5) < 0.02
    steps = torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]
    assert abs(steps) < 0.05


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4).flatmap(
        lambda lengths: st.tuples(
            st.just(lengths),
            st.lists(st.integers(1, 9), min_size=len(lengths), max_size=len(lengths)),
        )
    ),
    st.integers(0, 5),
    st.lists(st.integers(0, 500), min_size=1, max_size=20),
)
def test_clip_is_a_function_of_seed_and_index(case, seed, indices):
    straight = mixture(*case, seed)
    wanted = [straight.clip(i) for i in range(501)]
    other = mixture(*case, seed)
    assert [other.clip(i) for i in indices] == [wanted[i] for i in indices]
    for name, length in zip((f"s{i}" for i in range(9)), case[0], strict=False):
        own = [inner for source, inner in wanted if source == name]
        for start in range(0, len(own) - length + 1, length):
            assert sorted(own[start : start + length]) == list(range(start, start + length))


def test_order_of_a_run_does_not_depend_on_processes_or_workers():
    clips = {name: Named(Named.Config(name, n)) for name, n in (("a", 3), ("b", 7), ("c", 2))}
    stream = ClipStream(Named(Named.Config("g", 4)), MixtureClips(clips, [1, 2, 3.5], 1), 6, 0.5)
    encoder = tiny_backbone().encoder()

    def order(ranks=1, first_step=0, **options):
        steps = []
        for rank in range(ranks):
            batches = step_batches(
                stream, encoder, first_step=first_step, steps=4, rank=rank, ranks=ranks,
                **{"micro_batch": 3, **options},
            )  # fmt: skip
            steps.append([[name for batch in step for name in batch.clip_ids] for step in batches])
        # In step s rank r has clips r + s, r + s + ranks, ... of the step, counted modulo the ranks.
        return [
            [own[(r - step) % ranks][place] for place in range(len(own[0])) for r in range(ranks)]
            for step, own in enumerate(zip(*steps, strict=True), start=first_step)
        ]

    wanted = order()
    assert wanted == order(ranks=2) == order(ranks=3, micro_batch=1)
    assert wanted == order(num_workers=2)
    assert wanted[2:] == order(first_step=2)
    assert wanted[2:] == order(first_step=2, ranks=3)


@pytest.fixture
def named_kind(monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.setattr(DATASETS, "_loaded", dict(DATASETS._loaded))
    DATASETS.names()
    DATASETS.add("named", NameOnly)


def test_mixture_from_settings(named_kind):
    config = Mixture.Config(
        sources={
            "a": {"kind": "named", "weight": 3, "name": "a"},
            "b": Source("named", NameOnly.Config("b", 2)),
        }
    )
    data = Mixture(config)
    clips = data.split("train", 0)
    assert data.has_questions and len(clips) == 7
    assert Counter(clips.clip(i)[0] for i in range(400)) == {"a": 300, "b": 100}
    again = Mixture.Config(**config.to_dict())
    assert again == config


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ({}, "sources is empty"),
        ({"a": {"weight": 1}}, r"sources\.a has no kind; choose from: .*named"),
        ({"a": {"kind": "namd"}}, "unknown dataset 'namd'; did you mean named"),
        (
            {"a": {"kind": "named", "lenght": 3}},
            r"unknown setting sources\.a\.lenght; did you mean length",
        ),
        ({"a": {"kind": "named", "weight": 0}}, r"sources\.a\.weight=0\.0: must be positive"),
        ({"a": {"kind": "named", "weight": float("nan")}}, "must be positive"),
        ({"a": {"kind": "posed_rgbd", "root": "/no/such"}}, r"sources\.a: data\.root=/no/such"),
        ({"a": {"kind": "named", "length": 0}}, "length=0: must be positive"),
    ],
)
def test_what_is_no_mixture_is_told(named_kind, sources, reason):
    with pytest.raises(ValueError, match=reason):
        Mixture(Mixture.Config(sources=sources))
