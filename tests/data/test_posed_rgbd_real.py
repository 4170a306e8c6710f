"""The real sequences of ../shared/data (or SPATIALPRIOR_TEST_DATA); skipped where they are absent."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spatialprior.data.posed_rgbd import PosedRgbd
from spatialprior.data.posed_rgbd.recorded import RecordedSequence
from spatialprior.data.sequence import Frame
from spatialprior.geometry.matching import Matches, grid_points, match

DATA = Path(
    os.environ.get("SPATIALPRIOR_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data"
)
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (DATA / "redkitchen").is_dir(), reason=f"no real sequences under {DATA}"
    ),
]


def sequence(name: str, **settings: object) -> RecordedSequence:
    dataset = PosedRgbd(PosedRgbd.Config(root=str(DATA / name), **settings))  # type: ignore[arg-type]
    return dataset.sequences[0]


def pairs_at(recording: RecordedSequence, gap: int, count: int) -> list[tuple[Frame, Frame]]:
    position = {t: i for i, t in enumerate(recording.frame_ids)}
    starts = [i for i, t in enumerate(recording.frame_ids) if t + gap in position]
    chosen = starts[:: max(1, len(starts) // count)][:count]
    return [
        (recording.frame(i), recording.frame(position[recording.frame_ids[i] + gap]))
        for i in chosen
    ]


def matched(a: Frame, b: Frame, cells: int) -> Matches:
    fields = ("depth", "depth_valid", "intrinsics", "world_to_cam")
    height, width = a.image.shape[-2:]
    stacked = [torch.stack([getattr(frame, name) for frame in (a, b)]) for name in fields]
    return match(grid_points(cells, cells, height, width), torch.tensor([[0, 1]]), *stacked)


def look(frame: Frame, points: Tensor) -> Tensor:
    height, width = frame.image.shape[-2:]
    grid = points / torch.tensor([width, height]) * 2 - 1
    return F.grid_sample(frame.image[None].float(), grid[None, None], align_corners=False)[0, :, 0]


def colour_difference(pairs: list[tuple[Frame, Frame]]) -> tuple[float, float]:
    """Mean absolute difference (of 255) between matched places, and between the same places."""
    matches, same = [], []
    for a, b in pairs:
        found = matched(a, b, 32)
        seen = found.visible[0]
        here = look(a, found.points_a[0][seen])
        matches.append((here - look(b, found.points_b[0][seen])).abs().mean())
        same.append((here - look(b, found.points_a[0][seen])).abs().mean())
    return float(torch.stack(matches).mean()), float(torch.stack(same).mean())


@pytest.mark.parametrize(("name", "gap"), [("redkitchen", 24), ("livingroom", 24), ("hololens", 2)])
def test_matched_places_look_alike(name: str, gap: int) -> None:
    matches, same = colour_difference(pairs_at(sequence(name), gap, 5))
    assert matches < 0.35 * same


def test_registration_helps_where_depth_is_not_registered() -> None:
    registered = sequence("redkitchen")
    shipped = registered.calibration
    raw = registered.with_calibration(replace(shipped, color=shipped.depth, depth=None))  # type: ignore[arg-type]
    with_it, _ = colour_difference(pairs_at(registered, 24, 5))
    without, _ = colour_difference(pairs_at(raw, 24, 5))
    assert with_it < 0.8 * without


@pytest.mark.parametrize(
    ("name", "overlap"),
    [
        ("redkitchen", {8: 0.66, 24: 0.54, 48: 0.38}),
        ("livingroom", {8: 0.88, 24: 0.75, 48: 0.62, 100: 0.53}),
    ],
)
def test_overlap_is_as_known(name: str, overlap: dict[int, float]) -> None:
    recording = sequence(name)
    for gap, expected in overlap.items():
        pairs = pairs_at(recording, gap, 8)
        share = torch.stack([matched(a, b, 24).visible.float().mean() for a, b in pairs]).mean()
        assert abs(float(share) - expected) < 0.08, f"gap {gap}: {float(share):.2f}"


@pytest.mark.parametrize(
    ("name", "frames"), [("redkitchen", 300), ("livingroom", 211), ("hololens", 200)]
)
def test_every_split_hands_out_clips(name: str, frames: int) -> None:
    dataset = PosedRgbd(PosedRgbd.Config(root=str(DATA / name)))
    assert len(dataset.sequences[0]) == frames
    for split in ("train", "val", "test"):
        clips = dataset.split(split, seed=0)  # type: ignore[arg-type]
        clip = clips.clip(0)
        assert clip.num_views == 3 and clip.has_geometry and not clips.bad_frames
