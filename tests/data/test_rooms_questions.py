"""Every answer is worked out a second time, from pixels and poses, by parsing the question's words."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from spatialprior.data.rooms.dataset import Rooms
from spatialprior.data.rooms.question_types import COLOURS, QUESTION_TYPES
from spatialprior.data.rooms.questions import resolve_tasks, vocabulary
from spatialprior.data.rooms.render import render_room
from spatialprior.data.rooms.scene import make_room

SIZE = 64
CELL = 8
NUMBERS = {"three": 3, "four": 4, "five": 5, "six": 6}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    config = Rooms.Config(
        image_size=SIZE,
        train_rooms=60,
        questions_per_clip=24,
        render_workers=0,
        cache_dir=str(tmp_path_factory.mktemp("rooms")),
    )
    data = Rooms(config).split("train", seed=0)
    return [data.clip(i) for i in range(120)]


class Oracle:
    def __init__(self, clip):
        seed = int(clip.source_id.removeprefix("room"))
        self.room = make_room(seed)
        self.masks = render_room(seed, 8, SIZE)["instances"][list(clip.frame_ids)]
        self.depth = clip.depth.numpy().astype(float)
        self.pose = clip.world_to_cam.numpy().astype(float)
        self.K = clip.intrinsics[0].numpy().astype(float)

    def cell(self, view, row, col):
        y, x = ("abcdefghijklmnop".index(letter) * CELL for letter in (row, col))
        return self.masks[view, y : y + CELL, x : x + CELL], self.depth[
            view, y : y + CELL, x : x + CELL
        ]

    def main_id(self, view, row, col):
        return int(np.bincount(self.cell(view, row, col)[0].ravel()).argmax())

    def pixels(self, view, colour):
        if colour not in self.room.colours:  # questions may ask for a colour that is not there
            return np.empty((0, 2), dtype=int)
        return np.argwhere(self.masks[view] == self.room.colours.index(colour))

    def center(self, colour):
        return next(o for o in self.room.objects if o.colour == colour).center

    def world(self, view, row, col):
        y, x = ("abcdefghijklmnop".index(letter) * CELL + CELL // 2 for letter in (row, col))
        ray = np.linalg.solve(self.K, [x + 0.5, y + 0.5, 1.0])
        return np.linalg.inv(self.pose[view]) @ [*(ray * self.depth[view, y, x]), 1.0]

    def look(self, view, row, col, other):
        x, y, z = (self.pose[other] @ self.world(view, row, col))[:3] @ self.K.T
        return x / z / CELL, y / z / CELL

    def answer(self, question):
        text, views = (
            question.text,
            [int(d) - 1 for d in re.findall(r"(?:image|to) (\d)", question.text)],
        )
        cells = re.findall(r"cell ([a-p]) ([a-p])", text)
        named = re.findall("|".join(COLOURS), text)
        match question.task:
            case "color_at":
                return self.room.colours[self.main_id(views[0], *cells[0])]
            case "kind_at":
                return self.room.kinds[self.main_id(views[0], *cells[0])]
            case "relative_depth":
                blocks = [(self.cell(views[0], *c), self.main_id(views[0], *c)) for c in cells]
                first, second = (depth[ids == main].mean() for (ids, depth), main in blocks)
                return "first" if first < second else "second"
            case "spatial_relation":
                a, b = (self.pixels(views[0], colour)[:, 1].mean() for colour in named)
                return "left" if a < b else "right"
            case "camera_motion" if "turn" in text:
                # The old line of sight, seen by the new camera: to its right after a turn to the left.
                sight = self.pose[views[1], :3, :3] @ self.pose[views[0], 2, :3]
                return "left" if sight[0] > 0 else "right"
            case "camera_motion":
                moved = (
                    np.linalg.inv(self.pose[views[1]])[:3, 3]
                    - np.linalg.inv(self.pose[views[0]])[:3, 3]
                )
                return (
                    "forward"
                    if moved @ (self.pose[views[0], 2, :3] + self.pose[views[1], 2, :3]) > 0
                    else "back"
                )
            case "object_count":
                return next(
                    w
                    for w, n in NUMBERS.items()
                    if n == len(set(np.unique(self.masks)) - set(range(6)))
                )
            case "appearance_order":
                first = {
                    c: min(v for v in range(3) if len(self.pixels(v, c)) >= CELL**2) for c in named
                }
                return min(first, key=first.get)
            case "visible_in":
                return "yes" if len(self.pixels(views[0], named[0])) else "no"
            case "sole_view":
                shows = [bool(len(self.pixels(v, named[0]))) for v in range(3)]
                assert sum(shows) == 1
                return ("first", "second", "third")[shows.index(True)]
            case "view_count":
                count = sum(bool(len(self.pixels(v, named[0]))) for v in range(3))
                return ("one", "two", "three")[count - 1]
            case "same_point":
                x, y = self.look(views[0], *cells[0], views[1])
                return (
                    "yes"
                    if (int(y), int(x)) == tuple(map("abcdefghijklmnop".index, cells[1]))
                    else "no"
                )
            case "correspondence":
                x, y = self.look(views[0], *cells[0], views[1])
                place = [tuple(map("abcdefghijklmnop".index, c)) for c in cells[1:]].index(
                    (int(y), int(x))
                )
                return ("first", "second", "third", "fourth")[place]
            case "relative_direction":
                a, b, c = (self.center(colour)[:2] for colour in named)
                return "left" if np.linalg.det(np.stack([b - a, c - a])) > 0 else "right"
            case "relative_distance":
                a, b, c = map(self.center, named)
                return named[1] if np.linalg.norm(b - a) < np.linalg.norm(c - a) else named[2]
        raise AssertionError(question.task)


def test_every_answer_stands_up_to_an_independent_one(clips):
    asked = Counter()
    for clip in clips:
        oracle = Oracle(clip)
        for question in clip.questions:
            assert question.answer == oracle.answer(question), (clip.clip_id, question)
            asked[question.task] += 1
    assert set(asked) == set(QUESTION_TYPES)
    assert min(asked.values()) >= 20, asked


def test_questions_are_well_formed(clips):
    words = set(vocabulary())
    for clip in clips:
        assert 16 <= len(clip.questions) <= 24
        assert len({question.text for question in clip.questions}) == len(clip.questions)
        for question in clip.questions:
            assert question.answer in question.options
            assert len(set(question.options)) == len(question.options)
            assert set(re.findall(r"\w+|\?", question.text)) <= words
            assert set(question.options) <= words


def test_no_answer_is_preferred(clips):
    answers = defaultdict(Counter)
    for clip in clips:
        for question in clip.questions:
            answers[question.task][question.options.index(question.answer)] += 1
    for task, counts in answers.items():
        if task == "object_count":  # at most one a clip: too few here
            continue
        total, ways = counts.total(), len(counts)
        # Five standard deviations of a fair draw, twice as wide for questions that share a room.
        slack = 2 * 5 * np.sqrt((1 / ways) * (1 - 1 / ways) / total)
        assert max(counts.values()) / total < 1 / ways + slack, (task, counts)


def test_only_the_wanted_types_are_asked(tmp_path):
    config = Rooms.Config(
        image_size=32,
        val_rooms=2,
        tasks=["color_at", "camera_motion"],
        render_workers=0,
        cache_dir=str(tmp_path),
    )
    data = Rooms(config).split("val", seed=0)
    assert {q.task for i in range(4) for q in data.clip(i).questions} == {
        "color_at",
        "camera_motion",
    }


def test_no_questions_when_none_are_wanted(tmp_path):
    config = Rooms.Config(
        image_size=32, val_rooms=1, questions_per_clip=0, render_workers=0, cache_dir=str(tmp_path)
    )
    assert Rooms(config).split("val", seed=0).clip(0).questions == ()


def test_task_names_resolve():
    assert resolve_tasks(["all"]) == tuple(QUESTION_TYPES)
    assert resolve_tasks(["visible_in"]) == ("visible_in",)
    with pytest.raises(ValueError, match="did you mean object_count"):
        resolve_tasks(["objects_count"])
