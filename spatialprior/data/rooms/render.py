"""Renders many rooms, with a progress bar, in one process or several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from spatialprior.data.rooms.paths import make_path
from spatialprior.data.rooms.raycast import render
from spatialprior.data.rooms.scene import make_room

RoomArrays = dict[str, NDArray[np.generic]]


def render_room(seed: int, num_frames: int, image_size: int) -> RoomArrays:
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


def render_rooms(
    seeds: range, num_frames: int, image_size: int, workers: int, label: str
) -> Iterator[RoomArrays]:
    """Sequences of all ``seeds``, in order. Extra processes start only where there is enough work for them."""
    job: Callable[[int], RoomArrays] = partial(
        render_room, num_frames=num_frames, image_size=image_size
    )
    bar: Callable[[Iterable[RoomArrays]], Iterable[RoomArrays]] = partial(
        tqdm, total=len(seeds), desc=f"rendering {label} rooms", unit="room", leave=False
    )
    if workers < 2 or len(seeds) < 32:
        yield from bar(map(job, seeds))
        return
    # Not fork: the parent may hold torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from bar(pool.map(job, seeds, chunksize=4))


def write_rooms(folder: Path, rooms: Iterator[RoomArrays], count: int) -> None:
    """Stream ``count`` sequences into one ``.npy`` file a field, without holding them in memory."""
    files: dict[str, np.memmap] = {}
    for row, room in enumerate(rooms):
        for name, array in room.items():
            if name not in files:
                files[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy",
                    mode="w+",
                    dtype=array.dtype,
                    shape=(count, *array.shape),
                )
            files[name][row] = array
    for file in files.values():
        file.flush()
