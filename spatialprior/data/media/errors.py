"""What can be wrong with a media file: it is broken (replaced and counted), or it must not be read at all."""

from __future__ import annotations

from spatialprior.data.sequence import BadFrameError


class BadMediaError(BadFrameError):
    """A picture, video or conversation that cannot be used. ``on_bad`` decides what happens then."""


class MediaPathError(ValueError):
    """A path that leaves the media folder. Never replaced: a data set that does this is not to be trusted."""
