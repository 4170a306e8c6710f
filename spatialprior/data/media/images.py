"""One picture, upright, in RGB and of bounded size."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from spatialprior.data.media.errors import BadMediaError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are tried. Pillow knows more; some of those start other programs (EPS runs Ghostscript)."""

MAX_PIXELS = 90_000_000
"""Larger pictures are refused before they are decompressed (Pillow's own limit, as an error)."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def read_image(path: Path | BinaryIO, max_side: int | None = None) -> Tensor:
    """Read a picture.

    Args:
        path: The file, or an open one.
        max_side: Longest side of the result, pixels; smaller pictures keep their size.

    Returns:
        ``3 H W`` uint8, RGB, turned upright as the camera recorded it.

    Raises:
        BadMediaError: The file is missing, corrupt, truncated, of no known format, or too large.
    """
    name = path if isinstance(path, Path) else "picture within the data"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's: about sizes, checked here, and odd metadata
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadMediaError(
                        name,
                        f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}",
                    )
                upright = ImageOps.exif_transpose(image)
                return as_view(_rgb(upright), max_side)
    except BadMediaError:
        raise
    except UnidentifiedImageError:
        raise BadMediaError(name, f"no picture of a known format ({', '.join(FORMATS)})") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadMediaError(name, f"cannot be read as a picture ({error})") from error


def as_view(image: Image.Image, max_side: int | None) -> Tensor:
    """An RGB picture as ``3 H W`` uint8, its longest side at most ``max_side`` pixels."""
    if max_side is not None and max(image.size) > max_side:
        scale = max_side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def frame_files(folder: Path) -> list[Path]:
    """Pictures of a video that is kept as a folder of frames, in the order of their numbers.

    Raises:
        BadMediaError: There are none.
    """
    files = [p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES]
    if not files:
        raise BadMediaError(folder, "a folder without pictures")
    return sorted(files, key=_natural)


def _natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    """``frame2`` before ``frame10``."""
    parts = re.findall(r"\d+|\D+", path.name)
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts)


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white where a picture is transparent; 16-bit grey scaled, which Pillow would clip."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
