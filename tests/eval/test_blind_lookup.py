from collections import defaultdict

import numpy as np
import pytest

from spatialprior.core.clip import Question
from spatialprior.core.intervals import clustered_interval
from spatialprior.data.rooms.dataset import Rooms
from spatialprior.eval.blind_lookup import BlindLookup

LEFT_RIGHT = ("left", "right")


def _biased(rng, n, answer):
    letters = "abcdefghijklmnop"
    for _ in range(n):
        row, col = rng.integers(16, size=2)
        text = f"image 1 cell {letters[row]} {letters[col]} side?"
        yield Question("side", text, answer(row, col), LEFT_RIGHT)


@pytest.mark.parametrize(
    "answer",
    [
        lambda row, col: LEFT_RIGHT[int(row > 7)],
        lambda row, col: LEFT_RIGHT[int(col % 2)],
        lambda row, col: "left",
    ],
)
def test_it_finds_what_the_words_give_away(answer):
    rng = np.random.default_rng(0)
    lookup = BlindLookup.fit(_biased(rng, 400, answer))
    assert np.mean(lookup.score(list(_biased(rng, 200, answer)))) > 0.97


def test_it_finds_answers_that_hide_in_the_place_among_the_options():
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue", "white", "black"]

    def ask(n):
        for _ in range(n):
            options = tuple(rng.permutation(words)[:2].tolist())
            yield Question(
                "order", f"seen first {options[0]} or {options[1]}?", options[1], options
            )

    lookup = BlindLookup.fit(ask(300))
    assert np.mean(lookup.score(list(ask(100)))) == 1.0


def test_it_notices_that_the_same_place_is_a_good_guess():
    rng = np.random.default_rng(0)
    letters = "abcdefghijklmnop"

    def ask(n):
        for _ in range(n):
            row, col = rng.integers(16, size=2)
            same = rng.random() < 0.5
            other = (row, col) if same else ((row + 5) % 16, col)
            first, second = (f"cell {letters[r]} {letters[c]}" for r, c in ((row, col), other))
            yield Question(
                "same",
                f"image 1 {first} same as image 2 {second}?",
                "yes" if same else "no",
                ("yes", "no"),
            )

    lookup = BlindLookup.fit(ask(300))
    assert np.mean(lookup.score(list(ask(200)))) > 0.95


def test_it_learns_nothing_where_there_is_nothing_to_learn():
    rng = np.random.default_rng(0)
    coin = lambda row, col: LEFT_RIGHT[int(rng.integers(2))]  # noqa: E731
    lookup = BlindLookup.fit(_biased(rng, 400, coin))
    assert abs(np.mean(lookup.score(list(_biased(rng, 400, coin)))) - 0.5) < 0.1


def test_unknown_tasks_and_free_text_still_get_a_guess():
    lookup = BlindLookup.fit(
        [
            Question("name", "who?", "ann"),
            Question("name", "who?", "bob"),
            Question("name", "who?", "bob"),
        ]
    )
    assert lookup.predict(Question("name", "whom?", "x")) == "bob"
    assert lookup.predict(Question("new", "what?", "b", ("a", "b"))) == "a"
    assert lookup.predict(Question("new", "what?", "b")) == ""


@pytest.mark.slow
def test_on_held_out_rooms_it_is_near_chance(tmp_path):
    config = Rooms.Config(
        image_size=64,
        train_rooms=50,
        test_rooms=40,
        questions_per_clip=24,
        render_workers=0,
        cache_dir=str(tmp_path),
    )
    data = Rooms(config)
    train, test = data.split("train", 0), data.split("test", 0)
    lookup = BlindLookup.fit(q for i in range(150) for q in train.clip(i).questions)
    above, rooms = defaultdict(list), defaultdict(list)
    for clip in map(test.clip, range(80)):
        for question, right in zip(clip.questions, lookup.score(clip.questions), strict=True):
            above[question.task].append(right - 1 / len(question.options))
            rooms[question.task].append(clip.source_id)
    for task, values in above.items():
        interval = clustered_interval(values, rooms[task], level=0.999)
        assert interval.low < 0, (task, interval)
