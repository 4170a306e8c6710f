"""Open3D / Redwood: ``image/``, ``depth/`` and a trajectory ``.log`` (header line and 4x4 rows a frame).

Poses are camera to world, depth is registered, in millimetres.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatialprior.data.posed_rgbd.images import natural_key, stems
from spatialprior.data.posed_rgbd.poses import BadPoseError, parse_numbers, world_to_cam
from spatialprior.data.posed_rgbd.recorded import (
    Calibration,
    FrameRecord,
    RecordedSequence,
    intrinsics_matrix,
)

EXPECTS = "image/, depth/ and one *.log with a header line and a 4x4 matrix per frame"

_COLOR_FOLDERS = ("image", "color", "rgb", "images")


def matches(folder: Path) -> bool:
    """Whether the folder has this layout."""
    return (
        (folder / "depth").is_dir()
        and any(folder.glob("*.log"))
        and bool(stems(folder, _COLOR_FOLDERS))
    )


def read(folder: Path) -> RecordedSequence:
    """The i-th entry of the log belongs to the i-th picture (2 before 10), or to the picture it numbers.

    Raises:
        ValueError: Several logs, or a log that fits the pictures in neither way.
    """
    logs = sorted(folder.glob("*.log"))
    if len(logs) != 1:
        raise ValueError(
            f"{folder}: expected one trajectory .log, found {', '.join(p.name for p in logs)}"
        )
    colors, depths = stems(folder, _COLOR_FOLDERS), stems(folder, ("depth",), depth=True)
    names = sorted(colors.keys() | depths.keys(), key=natural_key)
    entries = _entries(logs[0])
    numbers = {natural_key(name)[0]: name for name in names}
    if len(entries) == len(names):
        chosen = list(names)
    elif all(number in numbers for number, _, _ in entries):
        chosen = [numbers[number] for number, _, _ in entries]
    else:
        raise ValueError(
            f"{logs[0]}: {len(entries)} poses for {len(names)} pictures, and the headers do not match"
        )
    records = []
    for name, (_, line, rows) in zip(chosen, entries, strict=True):
        color = colors.get(name, folder / "image" / f"{name}.jpg")
        depth = depths.get(name, folder / "depth" / f"{name}.png")
        frame_id = natural_key(name)[0]
        try:
            numbers_16 = parse_numbers(rows, "pose")
            if len(numbers_16) != 16:
                raise BadPoseError(f"pose has {len(numbers_16)} numbers, expected 16")
            records.append(
                FrameRecord(frame_id, color, depth, world_to_cam(np.reshape(numbers_16, (4, 4))))
            )
        except BadPoseError as error:
            records.append(
                FrameRecord(frame_id, color, depth, None, (f"{logs[0]} line {line}", str(error)))
            )
    records.sort(key=lambda record: record.frame_id)
    calibration = Calibration(color=intrinsics_matrix(525.0, 525.0, 319.5, 239.5))
    return RecordedSequence(folder.name, records, calibration)


def _entries(path: Path) -> list[tuple[int, int, str]]:
    """(first number of the header, its line, the four rows as text) of each frame.

    Raises:
        ValueError: The file is no trajectory log.
    """
    texts = path.read_text(encoding="ascii").splitlines()
    lines = [(i, text) for i, text in enumerate(texts, start=1) if text.strip()]
    if not lines or len(lines) % 5:
        raise ValueError(
            f"{path}: {len(lines)} lines, expected five a frame (a header and a 4x4 matrix)"
        )
    entries = []
    for start in range(0, len(lines), 5):
        number, header = lines[start]
        words = header.split()
        if len(words) != 3 or not all(word.lstrip("-").isdigit() for word in words):
            raise ValueError(
                f"{path} line {number}: {header.strip()!r} is no header of three whole numbers"
            )
        entries.append(
            (int(words[0]), number, " ".join(text for _, text in lines[start + 1 : start + 5]))
        )
    return entries
