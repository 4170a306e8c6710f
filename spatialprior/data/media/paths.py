"""From a path in somebody else's JSON to a file below the media folder, and to no other file."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from spatialprior.data.media.errors import BadMediaError, MediaPathError


def media_key(path: str) -> str:
    """A relative path in one spelling, so that ``./a//b.mp4`` and ``a/b.mp4`` are one medium.

    Raises:
        MediaPathError: The path is absolute, climbs out with ``..``, or holds a null byte.
    """
    key = posixpath.normpath(path.replace("\\", "/"))
    drive = len(key) > 1 and key[1] == ":"
    if key.startswith(("/", "~")) or drive or key.split("/")[0] == ".." or "\0" in key:
        raise MediaPathError(
            f"media path {path[:80]!r} leads out of the media folder; paths must be relative to media_root and "
            "stay below it"
        )
    return key


def find_media(path: str, roots: Sequence[Path], *, follow_links: bool = False) -> Path:
    """The existing file (or folder of frames) that ``path`` means, in the first root that has it.

    Args:
        path: As the data set writes it.
        roots: Folders to look in, in this order.
        follow_links: Accept symbolic links that lead out of the root.

    Raises:
        MediaPathError: The path, or a link on it, leads out of the root.
        BadMediaError: No root has it.
    """
    key = media_key(path)
    for root in roots:
        found = root / key
        try:
            if not found.exists():
                continue
        except OSError as error:  # such as a name that is too long
            raise BadMediaError(key[:80], f"cannot be looked up ({error.strerror})") from error
        if not follow_links and not found.resolve().is_relative_to(root.resolve()):
            raise MediaPathError(
                f"{found} is a link that leads out of {root}; if you made it, set follow_links=true"
            )
        return found
    where = ", ".join(str(root) for root in roots)
    raise BadMediaError(key, f"no such file below {where}")
