"""Where a record's views are, and how a protocol wants them read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spatialprior.core.clip import MultiViewClip
from spatialprior.data.media import BadMediaError, find_media, read_image, read_video_frames
from spatialprior.data.media.images import as_view, frame_files
from spatialprior.eval.published.spec import ProtocolSpec

Picture = str | bytes | Mapping[str, Any]
"""A path below ``root``, an encoded picture, or a Hugging Face image (``bytes`` or ``path``)."""


@dataclass(frozen=True)
class Media:
    """The views of one record.

    Attributes:
        key: Names them: records with one key show the same views.
        pictures: In order.
        video: Path below ``root``, in place of pictures.
        folder: Likewise a folder with a picture a frame; pictures that are no JPEG are depth maps beside them.
    """

    key: str
    pictures: tuple[Picture, ...] = ()
    video: str | None = None
    folder: str | None = None

    def num_views(self, frames: int | None) -> int:
        """How many views there will be, at most."""
        return len(self.pictures) if self.video is self.folder is None else frames or 0


def read_clip(
    media: Media, root: Path, source_id: str, protocol: ProtocolSpec, frames: int | None
) -> MultiViewClip:
    """Read the views as a protocol wants them.

    Args:
        media: Which.
        root: The data's folder; no path leads out of it.
        source_id: Scene of the clip.
        protocol: Its ``max_side`` and ``resize``.
        frames: Of a video or a folder, evenly from the first to the last. A folder with fewer gives some twice,
            as Video-3D-LLM reads it.

    Raises:
        BadMediaError: A file is missing or broken.
        MediaPathError: A path leads out of ``root``.
    """
    if media.folder is not None:
        folder = find_media(media.folder, (root,), follow_links=True)
        views = _spread(folder, frames or 32, protocol.max_side)
    elif media.video is not None:
        path = find_media(media.video, (root,), follow_links=True)
        views = read_video_frames(path, frames or 32, max_side=protocol.max_side).views
    else:
        views = [_picture(picture, root, protocol.max_side) for picture in media.pictures]
    if protocol.resize is not None:
        views = [_resized(view, protocol.resize) for view in views]
    alike = len({view.shape for view in views}) == 1
    return MultiViewClip(
        clip_id=media.key,
        source_id=source_id,
        images=torch.stack(views) if alike else tuple(views),
        frame_ids=tuple(range(len(views))),
    )


def _spread(folder: Path, count: int, max_side: int | None) -> list[Tensor]:
    """``count`` frames of a folder, in the order of their numbers."""
    if not folder.is_dir():
        raise BadMediaError(folder, "no folder of frames")
    files = frame_files(folder)
    files = [path for path in files if path.suffix.lower() in (".jpg", ".jpeg")] or files
    chosen = np.linspace(0, len(files) - 1, count, dtype=int)
    read = {index: read_image(files[index], max_side) for index in dict.fromkeys(chosen.tolist())}
    return [read[index] for index in chosen.tolist()]


def _picture(picture: Picture, root: Path, max_side: int | None) -> Tensor:
    if isinstance(picture, Mapping):
        inside = picture.get("bytes")
        picture = inside if inside is not None else str(picture["path"])
    if isinstance(picture, str):
        return read_image(find_media(picture, (root,), follow_links=True), max_side)
    return read_image(io.BytesIO(picture), max_side)


def _resized(view: Tensor, size: tuple[int, int]) -> Tensor:
    """``3 H W`` forced to ``(width, height)``, as Pillow does by default."""
    image = Image.fromarray(view.permute(1, 2, 0).numpy()).resize(size)
    return as_view(image, None)
