"""Renders many rooms into ``.npy`` files, with a progress bar, in one process or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from spatialprior.data.rooms.paths import make_path
from spatialprior.data.rooms.raycast import render
from spatialprior.data.rooms.scene import make_room

_WORTH_SHARING = 32  # fewer rooms render sooner than a second process starts


def render_room(seed: int, num_frames: int, image_size: int) -> dict[str, NDArray[Any]]:
    """Render one room's sequence.

    Returns:
        ``images T 3 H W`` uint8, ``depth T H W`` float32, ``instances T H W`` uint8, ``intrinsics 3 3``
        float32 and ``world_to_cam T 4 4`` float32.
    """
    room = make_room(seed)
    path = make_path(room, num_frames, image_size, image_size)
    views = [
        render(room, path.intrinsics, pose, image_size, image_size) for pose in path.world_to_cam
    ]
    return {
        "images": np.stack([view.image.transpose(2, 0, 1) for view in views]),
        "depth": np.stack([view.depth for view in views]),
        "instances": np.stack([view.instances for view in views]),
        "intrinsics": path.intrinsics.astype(np.float32),
        "world_to_cam": path.world_to_cam.astype(np.float32),
    }


def write_rooms(
    folder: Path, seeds: range, num_frames: int, image_size: int, workers: int, label: str
) -> None:
    """Render the rooms of ``seeds`` into one ``.npy`` file a field (``rooms ...``) in ``folder``.

    Raises:
        RuntimeError: A worker process failed; its last words are in the message.
    """
    for name, array in render_room(seeds[0], num_frames, image_size).items():
        shape = (len(seeds), *array.shape)
        np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=array.dtype, shape=shape
        ).flush()
    shares = workers if len(seeds) >= _WORTH_SHARING else 1
    if shares < 2:
        done = _write_share(folder, seeds, range(len(seeds)), num_frames, image_size)
    else:
        done = _write_in_workers(folder, seeds, num_frames, image_size, shares)
    bar: Iterable[None] = tqdm(
        done, total=len(seeds), desc=f"rendering {label} rooms", unit="room", leave=False
    )
    for _ in bar:
        pass


def _write_share(
    folder: Path, seeds: range, rows: range, num_frames: int, image_size: int
) -> Iterator[None]:
    """Render some rows into files that exist already; yields after each room."""
    files = {path.stem: np.load(path, mmap_mode="r+") for path in folder.glob("*.npy")}
    for row in rows:
        for name, array in render_room(seeds[row], num_frames, image_size).items():
            files[name][row] = array
        yield
    for file in files.values():
        file.flush()


def _write_in_workers(
    folder: Path, seeds: range, num_frames: int, image_size: int, workers: int
) -> Iterator[None]:
    """Share the rows out to fresh interpreters, which write straight into the files.

    Fresh interpreters rather than ``multiprocessing``: a fork would copy torch's threads, a spawn would run the
    user's main script again. Each worker prints one dot a room into a pipe that all share.
    """
    reader, writer = os.pipe()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    with os.fdopen(reader, "rb", buffering=0) as dots, tempfile.TemporaryFile() as complaints:
        try:
            for share in range(workers):
                job = [str(folder), seeds.start, len(seeds), share, workers, num_frames, image_size]
                command = [sys.executable, "-m", "spatialprior.data.rooms.render", json.dumps(job)]
                processes.append(
                    subprocess.Popen(command, stdout=writer, stderr=complaints, env=environment)
                )
            os.close(writer)
            while chunk := dots.read(64):
                yield from (None for _ in chunk)
            if any([process.wait() for process in processes]):
                complaints.seek(0)
                last = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(
                    f"a render worker failed ({''.join(last) or 'killed'}); try data.render_workers=1"
                )
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def _work(argument: str) -> None:
    """Body of a worker process; ``argument`` is the JSON list built by :func:`_write_in_workers`."""
    folder, first, count, share, workers, num_frames, image_size = json.loads(argument)
    rows = range(share, count, workers)
    for _ in _write_share(Path(folder), range(first, first + count), rows, num_frames, image_size):
        sys.stdout.write(".")
        sys.stdout.flush()


if __name__ == "__main__":
    _work(sys.argv[1])
