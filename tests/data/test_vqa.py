"""The VQA control: right answers are true matches, places are balanced, words give nothing away."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch

from spatialprior.core.clip import MultiViewClip
from spatialprior.data.rooms.observed import LETTERS
from spatialprior.data.rooms.questions import vocabulary
from spatialprior.data.vqa import OPTIONS, VqaClips, vqa_questions
from spatialprior.geometry.cameras import project, unproject

HEIGHT, WIDTH = 48, 96


def wall_clip(name: str, views: int = 3, geometry: bool = True) -> MultiViewClip:
    """Cameras that slide and rise in front of a wall, 3 m away; wider than high."""
    intrinsics = torch.tensor([[60.0, 0, WIDTH / 2], [0, 60.0, HEIGHT / 2], [0, 0, 1]])
    poses = torch.eye(4).repeat(views, 1, 1)
    rng = np.random.default_rng([ord(c) for c in name])
    poses[:, :2, 3] = torch.tensor(rng.uniform([-1.2, -0.5], [1.2, 0.5], (views, 2))).float()
    return MultiViewClip(
        clip_id=name,
        source_id=name,
        images=torch.zeros(views, 3, HEIGHT, WIDTH, dtype=torch.uint8),
        frame_ids=tuple(range(views)),
        intrinsics=intrinsics.repeat(views, 1, 1) if geometry else None,
        world_to_cam=poses if geometry else None,
        depth=torch.full((views, HEIGHT, WIDTH), 3.0) if geometry else None,
    )


class Walls:
    def __len__(self) -> int:
        return 5

    def clip(self, index: int) -> MultiViewClip:
        return wall_clip(f"wall{index}")


CELL = re.compile(r"cell ([a-p]) ([a-p])")
VIEWS = re.compile(r"image (\d)")


def read(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Views (from 0) and cells (row, col) that a question names."""
    cells = [(LETTERS.index(r), LETTERS.index(c)) for r, c in CELL.findall(text)]
    return [int(v) - 1 for v in VIEWS.findall(text)], cells


def test_the_right_option_is_where_the_point_goes_and_no_other_is_near() -> None:
    checked = 0
    for index in range(5):
        clip = Walls().clip(index)
        for question in vqa_questions(clip, 12):
            (a, b), (source, *offers) = read(question.text)
            x = (source[1] + 0.5) * WIDTH / 16
            y = (source[0] + 0.5) * HEIGHT / 16
            point = torch.tensor([[[x, y]]])
            world = unproject(
                point,
                torch.full((1, 1), 3.0),
                clip.intrinsics[a : a + 1],
                clip.world_to_cam[a : a + 1],
            )
            there, _ = project(world, clip.intrinsics[b : b + 1], clip.world_to_cam[b : b + 1])
            col, row = (
                (there[0, 0] * torch.tensor([16 / WIDTH, 16 / HEIGHT])).floor().long().tolist()
            )
            right = offers[OPTIONS.index(question.answer)]
            assert right == (row, col)
            for k, offer in enumerate(offers):
                for other in offers[:k]:
                    assert max(abs(offer[0] - other[0]), abs(offer[1] - other[1])) >= 2
            checked += 1
    assert checked >= 40


def test_places_are_balanced_and_questions_differ() -> None:
    questions = vqa_questions(wall_clip("one"), 12)
    assert Counter(q.answer for q in questions) == dict.fromkeys(OPTIONS, 3)
    assert len({q.text for q in questions}) == 12
    assert len({tuple(read(q.text)[0]) for q in questions}) > 2  # pairs, in both directions


def test_deterministic_in_the_clip_and_the_seed() -> None:
    clip = wall_clip("one")
    assert vqa_questions(clip, 4) == vqa_questions(clip, 4)
    assert vqa_questions(clip, 4) != vqa_questions(clip, 4, seed=1)
    assert vqa_questions(clip, 4) != vqa_questions(wall_clip("two"), 4)


def test_wrapper_appends_and_passes_through() -> None:
    first = vqa_questions(Walls().clip(1), 2, seed=9)
    dataset = VqaClips(VqaClips(Walls(), 2, seed=9), 3)
    assert len(dataset) == 5
    assert dataset.clip(1).questions[:2] == first
    assert len(dataset.clip(1).questions) == 5
    assert vqa_questions(wall_clip("bare", geometry=False), 3) == ()
    assert vqa_questions(wall_clip("single", views=1), 3) == ()


def test_views_that_share_nothing_have_no_questions() -> None:
    clip = wall_clip("apart", views=2)
    clip.world_to_cam[1, 0, 3] = 50.0
    assert vqa_questions(clip, 4) == ()


def test_every_word_is_known_to_the_nano_tokenizer() -> None:
    words = {w for q in vqa_questions(wall_clip("one"), 8) for w in re.findall(r"\w+|\?", q.text)}
    assert words <= set(vocabulary())
    assert set(OPTIONS) <= set(vocabulary())


def test_grid_beyond_the_letters_is_refused() -> None:
    with pytest.raises(ValueError, match="grid=17"):
        VqaClips(Walls(), 1, grid=17)
