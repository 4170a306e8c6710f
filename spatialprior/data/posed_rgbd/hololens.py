"""HoloLens keyframes: ``images/``, ``depth/``, ``poses.txt`` (one flat 4x4 a line), ``K.txt`` (3x3).

Line i belongs to the i-th picture in sorted order; poses are camera to world, depth is registered, in
millimetres. Keyframes lie far apart, so the default clip window is small.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialprior.data.posed_rgbd.images import stems
from spatialprior.data.posed_rgbd.poses import BadPoseError, parse_numbers, world_to_cam
from spatialprior.data.posed_rgbd.recorded import (
    Calibration,
    FrameRecord,
    RecordedSequence,
    intrinsics_matrix,
)

EXPECTS = "images/, depth/, poses.txt (16 numbers a line), K.txt (3x3)"

_DEFAULT_WINDOW = 4  # keyframes; at 4 still 31 % of the points are shared in a typical walk


def matches(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (
        (folder / "images").is_dir()
        and (folder / "poses.txt").is_file()
        and (folder / "K.txt").is_file()
    )


def read(folder: Path) -> RecordedSequence:
    """Read the listing.

    Raises:
        ValueError: As many poses as pictures are needed, or nobody knows which belongs to which.
    """
    colors, depths = stems(folder, ("images",)), stems(folder, ("depth",), depth=True)
    names = sorted(colors.keys() | depths.keys())
    poses = folder / "poses.txt"
    lines = [line for line in poses.read_text(encoding="ascii").splitlines() if line.strip()]
    if len(lines) != len(names):
        raise ValueError(f"{poses}: {len(lines)} poses for {len(names)} pictures")
    records = []
    for i, (name, line) in enumerate(zip(names, lines, strict=True)):
        color = colors.get(name, folder / "images" / f"{name}.jpg")
        depth = depths.get(name, folder / "depth" / f"{name}.png")
        try:
            numbers = parse_numbers(line, "pose")
            if len(numbers) != 16:
                raise BadPoseError(f"pose has {len(numbers)} numbers, expected 16")
            records.append(FrameRecord(i, color, depth, world_to_cam(np.reshape(numbers, (4, 4)))))
        except BadPoseError as error:
            records.append(
                FrameRecord(i, color, depth, None, (f"{poses} line {i + 1}", str(error)))
            )
    k_path = folder / "K.txt"
    k = parse_numbers(k_path.read_text(encoding="ascii"), str(k_path))
    if len(k) != 9:
        raise ValueError(f"{k_path}: {len(k)} numbers, expected a 3x3 matrix")
    calibration = Calibration(color=intrinsics_matrix(k[0], k[4], k[2], k[5]))
    return RecordedSequence(folder.name, records, calibration, default_window=_DEFAULT_WINDOW)
