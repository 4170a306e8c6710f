"""TUM RGB-D: ``rgb.txt``, ``depth.txt``, ``groundtruth.txt`` with timestamps; depth in 1/5000 m, registered.

Frames, depths and poses have clocks of their own and are associated by nearest timestamp. Lens distortion is
not corrected.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialprior.data.posed_rgbd.poses import BadPoseError, from_quaternion, world_to_cam
from spatialprior.data.posed_rgbd.recorded import (
    Calibration,
    FrameRecord,
    RecordedSequence,
    intrinsics_matrix,
    listed_path,
)

EXPECTS = "rgb.txt, depth.txt, groundtruth.txt"

_MAX_LAG = 0.02  # seconds between a frame and its depth or pose, as the benchmark's own association
_INTRINSICS = {  # the benchmark's calibration by robot / room; its ROS default otherwise
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
_DEFAULT_INTRINSICS = (525.0, 525.0, 319.5, 239.5)


def matches(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return all((folder / name).is_file() for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))


def read(folder: Path) -> RecordedSequence:
    """Every line of ``rgb.txt`` is a frame; one without depth or pose in time is a bad frame."""
    color_times, color_rows = _listing(folder / "rgb.txt", columns=2)
    depth_times, depth_rows = _listing(folder / "depth.txt", columns=2)
    pose_times, pose_rows = _listing(folder / "groundtruth.txt", columns=8)
    records = []
    for frame_id, (time, row) in enumerate(zip(color_times, color_rows, strict=True)):
        color = listed_path(folder, row[1])
        depth_at, pose_at = _nearest(depth_times, time), _nearest(pose_times, time)
        if depth_at is None or pose_at is None:
            what = "depth" if depth_at is None else "pose"
            problem = (str(color), f"no {what} within {_MAX_LAG} s of its timestamp {time}")
            records.append(FrameRecord(frame_id, color, color, None, problem))
            continue
        depth = listed_path(folder, depth_rows[depth_at][1])
        try:
            values = np.array([float(word) for word in pose_rows[pose_at][1:8]])
            rigid = world_to_cam(from_quaternion(values[:3], values[3:]))
            records.append(FrameRecord(frame_id, color, depth, rigid))
        except (BadPoseError, ValueError) as error:
            problem = (f"{folder / 'groundtruth.txt'} at {pose_rows[pose_at][0]}", str(error))
            records.append(FrameRecord(frame_id, color, depth, None, problem))
    known = next((k for name, k in _INTRINSICS.items() if name in folder.name), _DEFAULT_INTRINSICS)
    calibration = Calibration(color=intrinsics_matrix(*known), depth_scale=1 / 5000)
    return RecordedSequence(folder.name, records, calibration)


def _listing(path: Path, columns: int) -> tuple[np.ndarray, list[list[str]]]:
    """Rows ``timestamp word ...`` sorted by time, comments dropped.

    Raises:
        ValueError: A row is too short or its timestamp is no number.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append((float(words[0]), words))
        except ValueError:
            raise ValueError(f"{path} line {number}: {words[0]!r} is no timestamp") from None
        if len(words) < columns:
            raise ValueError(f"{path} line {number}: {len(words)} columns, expected {columns}")
    rows.sort(key=lambda row: row[0])
    return np.array([time for time, _ in rows]), [words for _, words in rows]


def _nearest(times: np.ndarray, time: float) -> int | None:
    """Index of the entry nearest to ``time``, or ``None`` when all are further than the lag."""
    if not len(times):
        return None
    right = int(np.searchsorted(times, time))
    best = min(
        (i for i in (right - 1, right) if 0 <= i < len(times)), key=lambda i: abs(times[i] - time)
    )
    return best if abs(times[best] - time) <= _MAX_LAG else None
