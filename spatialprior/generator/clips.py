"""Clips of slow, smooth camera motion through the embedded rooms."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor
from tqdm import tqdm

from spatialprior.core.cache import cache_root
from spatialprior.data.rooms.cache import load_or_make, source_digest
from spatialprior.data.rooms.dataset import FIRST_SEED
from spatialprior.data.rooms.paths import make_path
from spatialprior.data.rooms.raycast import render
from spatialprior.data.rooms.scene import Room, make_room
from spatialprior.features.fit import fit_frames
from spatialprior.generator.config import ClipsConfig

_CLEARANCE = 0.10  # metres; the path's own poses keep more, the way between them may not


class Clips:
    """Rendered clips of one split (rendered when first asked for, then memory-mapped).

    Attributes:
        frames: ``rooms clips F 3 H W`` uint8. A clip's first frame lies on the room's own path.
    """

    def __init__(self, config: ClipsConfig, split: Literal["train", "val"]) -> None:
        rooms = config.train_rooms if split == "train" else config.val_rooms
        self.seeds = range(FIRST_SEED[split], FIRST_SEED[split] + rooms)
        settings = dataclasses.asdict(config)
        for name in ("train_rooms", "val_rooms", "cache_dir"):
            settings.pop(name)
        own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        key = json.dumps([source_digest(), own, self.seeds.start, rooms, settings])
        name = f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

        def make(empty: Path) -> None:
            frames: Any = None
            for row, seed in enumerate(tqdm(self.seeds, f"rendering {split} clips", leave=False)):
                found = render_clips(seed, config)
                if frames is None:
                    frames = np.lib.format.open_memmap(
                        empty / "frames.npy", "w+", np.uint8, (rooms, *found.shape)
                    )
                frames[row] = found
            frames.flush()

        folder = cache_root(config.cache_dir) / "generator" / name
        self.frames = load_or_make(folder, make)["frames"]

    def __len__(self) -> int:
        return self.frames.shape[0] * self.frames.shape[1]

    def room(self, index: int) -> str:
        """Name of the room of clip ``index``: the cluster of intervals."""
        return f"room{self.seeds[index // self.frames.shape[1]]}"

    def videos(self, indices: list[int]) -> Tensor:
        """Clips as the model's input: ``N 3 F H W`` float32 in [-1, 1]."""
        per_room = self.frames.shape[1]
        chosen = np.stack([self.frames[i // per_room, i % per_room] for i in indices])
        return as_input(torch.from_numpy(chosen))

    def stills(self, indices: list[int], frames: list[int]) -> Tensor:
        """One frame of each clip as a one-frame video: ``N 3 1 H W`` in [-1, 1]."""
        videos = self.videos(indices)
        return torch.stack([video[:, f : f + 1] for video, f in zip(videos, frames, strict=True)])


def as_input(frames: Tensor) -> Tensor:
    """Frames ``N F 3 H W`` uint8 as Wan's input ``N 3 F H W`` in [-1, 1]."""
    return frames.transpose(1, 2).float() / 127.5 - 1


def render_clips(seed: int, config: ClipsConfig) -> NDArray[np.uint8]:
    """All clips of one room, ``clips F 3 H W`` uint8."""
    room, side = make_room(seed), config.image_size * config.render_scale
    path = make_path(room, config.clips_per_room + 1, side, side)
    pairs = zip(path.world_to_cam[:-1], path.world_to_cam[1:], strict=True)
    poses = [pose for a, b in pairs for pose in glide(room, a, b, config.frames, config.span)]
    views = [render(room, path.intrinsics, pose, side, side).image for pose in poses]
    images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
    # Scaled down exactly as a feature encoder scales its input.
    pixels, _ = fit_frames(images, (config.image_size, config.image_size), "aspect", 1)
    frames: NDArray[np.uint8] = (pixels * 255).round().to(torch.uint8).numpy()
    return frames.reshape(config.clips_per_room, config.frames, *frames.shape[1:])


def glide(
    room: Room,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    frames: int,
    span: float,
) -> NDArray[np.float64]:
    """Poses ``F 4 4`` from ``start`` a share ``span`` of the way to ``end``, at a constant speed.

    Straight in position, along the shortest turn in rotation. Where furniture is in the way the camera
    goes less far.
    """
    eyes = np.stack([-pose[:3, :3].T @ pose[:3, 3] for pose in (start, end)])
    turn = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([start[:3, :3], end[:3, :3]])))
    for _ in range(8):
        at = np.linspace(0, span, frames)
        points = eyes[0] + at[:, None] * (eyes[1] - eyes[0])
        if room.is_free(points, _CLEARANCE):
            break
        span /= 2
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = turn(at).as_matrix()
    poses[:, :3, 3] = -np.einsum("fij,fj->fi", poses[:, :3, :3], points)
    return poses
