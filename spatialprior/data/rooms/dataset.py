"""The embedded world as a dataset: rooms nobody has to download."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from spatialprior.core.cache import cache_root
from spatialprior.core.clip import MultiViewClip
from spatialprior.data.clip_sampler import ClipSampler, ClipSampling
from spatialprior.data.dataset import Split
from spatialprior.data.rooms.cache import Arrays, load_or_make, source_digest
from spatialprior.data.rooms.observed import CELL_PIXELS
from spatialprior.data.rooms.questions import make_questions, resolve_tasks
from spatialprior.data.rooms.render import write_rooms
from spatialprior.data.rooms.sequence import RenderedRooms
from spatialprior.data.scenes import Scenes

FIRST_SEED: dict[str, int] = {"train": 0, "val": 200_000, "test": 900_000}
"""Room seeds of each split start here: rooms are never shared between splits."""

_QUESTION_STREAM = 0x0C


class Rooms:
    """Ray-cast rooms with exact geometry, and questions about them."""

    has_geometry: ClassVar[bool] = True
    has_questions: ClassVar[bool] = True

    @dataclass
    class Config:
        """What a recipe may set.

        Attributes:
            image_size: Height and width, pixels.
            frames_per_room: Length T of each room's camera path.
            frames_per_clip: Views F of a clip.
            window: R: views come from ``[t - R, t + R]`` around a random anchor frame t.
            train_rooms, val_rooms, test_rooms: Rooms of each split, one clip of each a pass.
            questions_per_clip: Questions of each clip; 0 for none.
            tasks: Question types, or ``["all"]``.
            render_workers: Processes that render rooms which are not cached yet.
            cache_dir: Where rendered rooms are kept; by default ``$SPATIALPRIOR_CACHE``, or else
                ``~/.cache/spatialprior``.
        """

        image_size: int = 128
        frames_per_room: int = 8
        frames_per_clip: int = 3
        window: int = 4
        train_rooms: int = 400
        val_rooms: int = 32
        test_rooms: int = 64
        questions_per_clip: int = 8
        tasks: list[str] = field(default_factory=lambda: ["all"])
        render_workers: int = 2
        cache_dir: str | None = None

    def __init__(self, config: Rooms.Config) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting is out of range, or a task does not exist.
        """
        _check(config)
        self.config = config

    def split(self, name: Split, seed: int) -> RoomClips:
        """The named split, rendered (or found in the cache) now; ``seed`` decides views and questions."""
        c = self.config
        seeds = self._seeds(name)
        key = json.dumps(
            [source_digest(), seeds.start, len(seeds), c.frames_per_room, c.image_size]
        )
        folder = (
            cache_root(c.cache_dir)
            / "rooms"
            / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        )
        opener = partial(
            _open, folder, seeds, c.frames_per_room, c.image_size, c.render_workers, name
        )
        rendered = RenderedRooms(seeds, c.frames_per_room, opener)
        _ = rendered.arrays  # render here, once, rather than in every loader process
        return RoomClips(rendered, c, seed)

    def scenes(self, name: Split) -> Scenes:
        """The rooms of a split; none is rendered."""
        return Scenes(frozenset(f"rooms/room{seed}" for seed in self._seeds(name)))

    def _seeds(self, name: Split) -> range:
        c = self.config
        rooms = {"train": c.train_rooms, "val": c.val_rooms, "test": c.test_rooms}
        if name not in rooms:
            raise ValueError(f"split {name!r}: the rooms have {', '.join(rooms)}")
        return range(FIRST_SEED[name], FIRST_SEED[name] + rooms[name])


class RoomClips:
    """Clips of one split; pass k over the rooms takes them in a new order and draws new views of each."""

    def __init__(self, rooms: RenderedRooms, config: Rooms.Config, seed: int) -> None:
        self._rooms = rooms
        self._config = config
        self._seed = seed
        self._tasks = resolve_tasks(config.tasks)
        self._sampling = ClipSampling(
            min_frames=config.frames_per_clip,
            max_frames=config.frames_per_clip,
            window=config.window,
        )

    def __len__(self) -> int:
        return len(self._rooms)

    def clip(self, index: int) -> MultiViewClip:
        """Clip ``index``, any non-negative integer."""
        lap, place = divmod(index, len(self._rooms))
        row = int(np.random.default_rng([self._seed, lap]).permutation(len(self._rooms))[place])
        sequence = self._rooms.sequence(row)
        clip = ClipSampler([sequence], self._sampling, self._seed).clip(index)
        if not self._config.questions_per_clip:
            return clip
        rng = np.random.default_rng([self._seed, index, _QUESTION_STREAM])
        observed = sequence.observed(clip.frame_ids)
        return clip.with_questions(
            make_questions(observed, self._config.questions_per_clip, self._tasks, rng)
        )


def _open(
    folder: Path, seeds: range, num_frames: int, image_size: int, workers: int, label: str
) -> Arrays:
    def make(empty: Path) -> None:
        write_rooms(empty, seeds, num_frames, image_size, workers, label)

    return load_or_make(folder, make)


def _check(config: Rooms.Config) -> None:
    resolve_tasks(config.tasks)
    if config.image_size % (2 * CELL_PIXELS):
        raise ValueError(
            f"data.image_size={config.image_size}: must be a multiple of {2 * CELL_PIXELS}"
        )
    for name in (
        "image_size",
        "frames_per_room",
        "frames_per_clip",
        "window",
        "train_rooms",
        "val_rooms",
        "test_rooms",
    ):
        if getattr(config, name) < 1:
            raise ValueError(f"data.{name}={getattr(config, name)}: must be at least 1")
    if config.frames_per_clip > min(config.frames_per_room, config.window + 1):
        raise ValueError(
            f"data.frames_per_clip={config.frames_per_clip}: a window of {config.window} in a path of "
            f"{config.frames_per_room} frames holds fewer; lower it, or raise window and frames_per_room"
        )
    for first, second in (("train", "val"), ("val", "test")):
        room_limit = FIRST_SEED[second] - FIRST_SEED[first]
        if getattr(config, f"{first}_rooms") > room_limit:
            raise ValueError(
                f"data.{first}_rooms: at most {room_limit}, so that splits never share a room"
            )
