"""The paper's VQA control (GASP section 7): the matches that a prior would supervise, as questions.

"Which cell of image 2 shows the point at row c, column k of image 1?", with four cells to choose from. Cells
are addressed as in the rooms' questions, on a fixed grid over the image, whatever its aspect ratio.

Wrong cells are where *other* matches of the same clip would have carried the point: the displacement of
another visible match, applied to the queried cell. So how far and which way points move tells little, and
one has to look.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.data.dataset import ClipDataset
from spatialprior.data.rooms.observed import LETTERS, cell_name
from spatialprior.geometry.matching import Matches, all_pairs, grid_points, match

TASK = "vqa_correspondence"
OPTIONS = ("a", "b", "c", "d")
_APART = (
    2  # offered cells differ by at least this much in row or column, so that only one can be right
)
_TRIES = 40

Cell = tuple[int, int]


class VqaClips:
    """A dataset whose clips carry these questions too, behind any they already have.

    Args:
        dataset: Clips with geometry; a clip without it passes through unchanged.
        questions_per_clip: Questions added to each clip; fewer where its views share too little.
        grid: Rows and columns of the cells, at most 16.
        seed: Of the draws; with the clip's id it decides the questions.
    """

    def __init__(
        self, dataset: ClipDataset, questions_per_clip: int, grid: int = 16, seed: int = 0
    ) -> None:
        if not 4 <= grid <= len(LETTERS):
            raise ValueError(f"vqa grid={grid}: must be 4 to {len(LETTERS)}, the letters of cells")
        self._dataset = dataset
        self._count = questions_per_clip
        self._grid = grid
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def clip(self, index: int) -> MultiViewClip:
        """Clip ``index`` of the dataset, with the added questions."""
        clip = self._dataset.clip(index)
        added = vqa_questions(clip, self._count, grid=self._grid, seed=self._seed)
        return clip.with_questions(clip.questions + added)


def vqa_questions(
    clip: MultiViewClip, count: int, *, grid: int = 16, seed: int = 0
) -> tuple[Question, ...]:
    """Up to ``count`` different questions about matches of ``clip``, the right option's place balanced."""
    if not clip.has_geometry or clip.num_views < 2 or count < 1:
        return ()
    rng = np.random.default_rng([seed, zlib.crc32(clip.clip_id.encode())])
    cells, pairs = _matched_cells(clip, grid)
    seen = [np.flatnonzero((row >= 0).all(axis=1)) for row in cells]
    shared = [p for p in range(len(pairs)) if len(seen[p])]
    if not shared:
        return ()
    places = _balanced_places(rng)
    asked: set[tuple[int, int]] = set()
    questions: list[Question] = []
    for _ in range(_TRIES * count):
        if len(questions) == count:
            break
        pair = shared[int(rng.integers(len(shared)))]  # every pair alike, however much it shares
        anchor = int(rng.choice(seen[pair]))
        if (pair, anchor) in asked:
            continue
        wrong = _wrong_cells(cells, seen, pair, anchor, grid, rng)
        if wrong is None:
            continue
        asked.add((pair, anchor))
        right: Cell = (int(cells[pair, anchor, 0]), int(cells[pair, anchor, 1]))
        questions.append(_question(pairs[pair], divmod(anchor, grid), right, wrong, next(places)))
    return tuple(questions)


def _matched_cells(clip: MultiViewClip, grid: int) -> tuple[NDArray[np.int64], list[Cell]]:
    """``P A 2`` (row, col) in view b of each cell centre of view a, -1 where not visible; and the pairs."""
    assert clip.depth is not None and clip.intrinsics is not None and clip.world_to_cam is not None
    height, width = clip.image_size
    pairs = all_pairs(clip.num_views)
    found: Matches = match(
        grid_points(grid, grid, height, width),
        pairs,
        clip.depth,
        clip.depth_valid,
        clip.intrinsics,
        clip.world_to_cam,
        edges="drop",  # a snapped anchor might have left the cell that the question names
    )
    scale = torch.tensor([grid / width, grid / height], dtype=found.points_b.dtype)
    col_row = (found.points_b * scale).floor().long().clamp(0, grid - 1)
    cells = col_row.flip(-1).masked_fill(~found.visible.unsqueeze(-1), -1)
    return cells.numpy(), [(int(a), int(b)) for a, b in pairs.tolist()]


def _wrong_cells(
    cells: NDArray[np.int64],
    seen: list[NDArray[np.intp]],
    pair: int,
    anchor: int,
    grid: int,
    rng: np.random.Generator,
) -> list[Cell] | None:
    """Three cells apart from the right one and from each other."""
    source = np.array(divmod(anchor, grid))
    chosen = [cells[pair, anchor]]
    pools = [p for p in range(len(seen)) if len(seen[p])]
    for attempt in range(_TRIES):
        if attempt < _TRIES // 2:
            other = pools[int(rng.integers(len(pools)))]
            start = int(rng.choice(seen[other]))
            offer = source + cells[other, start] - np.array(divmod(start, grid))
        else:  # views that hardly move offer too few displacements
            offer = rng.integers(grid, size=2)
        inside = (offer >= 0).all() and (offer < grid).all()
        if inside and all(np.abs(offer - cell).max() >= _APART for cell in chosen):
            chosen.append(offer)
        if len(chosen) == len(OPTIONS):
            return [(int(row), int(col)) for row, col in chosen[1:]]
    return None


def _balanced_places(rng: np.random.Generator) -> Iterator[int]:
    """Places of the right option: each once in every four, in random order."""
    while True:
        yield from rng.permutation(len(OPTIONS)).tolist()


def _question(
    pair: Cell, source: tuple[int, int], right: Cell, wrong: list[Cell], place: int
) -> Question:
    offers = [*wrong[:place], right, *wrong[place:]]
    listed = " ".join(
        f"{name} {cell_name(*cell)}" for name, cell in zip(OPTIONS, offers, strict=True)
    )
    text = f"image {pair[0] + 1} {cell_name(*source)} in image {pair[1] + 1} is {listed}?"
    return Question(TASK, text, OPTIONS[place], OPTIONS)
