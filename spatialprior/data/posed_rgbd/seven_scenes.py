"""7-Scenes: ``frame-%06d.color.png|jpg``, ``.depth.png``, ``.pose.txt`` (camera to world), millimetres.

Colour and depth come from two lenses and are *not* registered. The intrinsics that circulate (585, 320, 240)
are the depth camera's; the colour camera is about f = 525, c = (319.5, 239.5), 2 cm to the side.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from spatialprior.data.posed_rgbd.poses import BadPoseError, parse_numbers, world_to_cam
from spatialprior.data.posed_rgbd.recorded import (
    Calibration,
    FrameRecord,
    RecordedSequence,
    intrinsics_matrix,
)

EXPECTS = "frame-000000.color.png (or .jpg), frame-000000.depth.png, frame-000000.pose.txt"

_FILE = re.compile(r"frame-(\d+)\.(color\.(?:png|jpg)|depth\.png|pose\.txt)")
_COLOR = intrinsics_matrix(525.0, 525.0, 319.5, 239.5)
_DEPTH = intrinsics_matrix(585.0, 585.0, 320.0, 240.0)
_DEPTH_TO_COLOR_X = -0.02


def matches(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return any(_FILE.fullmatch(path.name) for path in folder.glob("frame-*"))


def read(folder: Path) -> RecordedSequence:
    """The frames named by any of their three files, so that a missing one is noticed."""
    depth_to_color = torch.eye(4, dtype=torch.float64)
    depth_to_color[0, 3] = _DEPTH_TO_COLOR_X
    found: dict[str, dict[str, Path]] = {}
    for path in folder.iterdir():
        if match := _FILE.fullmatch(path.name):
            found.setdefault(match[1], {})[match[2].split(".")[0]] = path
    records = [_record(folder, number, found[number]) for number in sorted(found, key=int)]
    calibration = Calibration(
        color=_COLOR, depth=_depth_intrinsics(folder), depth_to_color=depth_to_color
    )
    return RecordedSequence(folder.name, records, calibration)


def _record(folder: Path, number: str, files: dict[str, Path]) -> FrameRecord:
    color = files.get("color", folder / f"frame-{number}.color.png")
    depth = files.get("depth", folder / f"frame-{number}.depth.png")
    pose = folder / f"frame-{number}.pose.txt"
    try:
        numbers = parse_numbers(pose.read_text(encoding="ascii"), "pose")
        if len(numbers) != 16:
            raise BadPoseError(f"pose has {len(numbers)} numbers, expected 16")
        return FrameRecord(int(number), color, depth, world_to_cam(np.reshape(numbers, (4, 4))))
    except FileNotFoundError:
        problem = (str(pose), "file is missing")
    except (BadPoseError, UnicodeDecodeError, OSError) as error:
        problem = (str(pose), str(error))
    return FrameRecord(int(number), color, depth, None, problem)


def _depth_intrinsics(folder: Path) -> torch.Tensor:
    """``camera-intrinsics.txt`` (3x3, pixel centres at integers) where it is shipped: the depth camera's."""
    path = folder / "camera-intrinsics.txt"
    if not path.is_file():
        return _DEPTH
    numbers = parse_numbers(path.read_text(encoding="ascii"), str(path))
    if len(numbers) != 9:
        raise ValueError(f"{path}: {len(numbers)} numbers, expected a 3x3 matrix")
    k = numbers.reshape(3, 3)
    return intrinsics_matrix(k[0, 0], k[1, 1], k[0, 2], k[1, 2])
