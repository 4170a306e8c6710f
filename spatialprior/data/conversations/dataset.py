"""``kind: llava_json``: clips from LLaVA-style conversations about pictures and videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from spatialprior.core.clip import MultiViewClip
from spatialprior.data.bad_samples import BadSamples, read_or_substitute
from spatialprior.data.conversations.files import instruction_files
from spatialprior.data.conversations.index import open_index
from spatialprior.data.conversations.reader import RecordReader
from spatialprior.data.dataset import Split
from spatialprior.data.scenes import Scenes
from spatialprior.data.shuffled import ShuffledPasses

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


class LlavaJson:
    """Conversations from LLaVA-style JSON or JSONL: pictures, several pictures, videos, or text alone."""

    has_geometry: ClassVar[bool] = False
    has_questions: ClassVar[bool] = True
    free_form: ClassVar[bool] = True

    @dataclass
    class Config:
        """What recipes may set.

        Attributes:
            path: A ``.json`` or ``.jsonl`` file, a folder of them (LLaVA-Video-178K as downloaded), or a list.
            media_root: Folder that media paths are relative to; by default that of ``path``. A path that it
                does not have is looked up beside its JSON file.
            frames: Most frames of a video.
            fps: Frames a second, as far as ``frames`` allows; ``None`` spreads ``frames`` over the whole video.
            max_side: Longest side of a view, pixels; ``None`` keeps the recorded size.
            parts: Shares of train, val and test. A medium is in one of them only, whatever the seed.
            max_turns: Most turns of a conversation; ``None`` takes all.
            system: What a system turn is: ``refuse`` makes the record a bad one, ``drop`` leaves the turn out.
            on_bad: ``substitute`` replaces a sample that cannot be used (counted, named once) by another that
                depends on seed and index only; ``fail`` stops.
            follow_links: Accept symbolic links that lead out of ``media_root``.
            decoder_threads: Threads of a video decoder.
            cache_dir: Where the index of records is kept; by default ``$SPATIALPRIOR_CACHE``, or else
                ``~/.cache/spatialprior``.
        """

        path: str | list[str]
        media_root: str | None = None
        frames: int = 8
        fps: float | None = None
        max_side: int | None = 448
        parts: tuple[float, float, float] = (0.98, 0.01, 0.01)
        max_turns: int | None = None
        system: Literal["refuse", "drop"] = "refuse"
        on_bad: Literal["substitute", "fail"] = "substitute"
        follow_links: bool = False
        decoder_threads: int = 1
        cache_dir: str | None = None

        def __post_init__(self) -> None:
            for name in ("frames", "decoder_threads", "max_side", "max_turns", "fps"):
                value = getattr(self, name)
                if value is not None and value <= 0:
                    raise ValueError(f"{name}={value}: must be positive")
            parts = self.parts
            if len(parts) != 3 or min(parts) < 0 or not 0 < sum(parts) <= 1 + 1e-6:
                raise ValueError(
                    f"parts={list(parts)}: write three shares (train, val, test) that sum to at most 1"
                )

    def __init__(self, config: Config) -> None:
        """List and index the records; a few are looked at, the rest when they are asked for.

        Raises:
            ValueError: Nothing there, no JSON, no good record, or no medium where ``media_root`` says.
            RuntimeError: There are videos, and nothing to decode them with.
        """
        self.config = config
        paths = [config.path] if isinstance(config.path, str) else list(config.path)
        self._index = open_index(instruction_files(paths), config.cache_dir)
        self._reader = RecordReader(self._index, _media_root(config, paths), config)
        self._reader.check_some()

    def split(self, name: Split, seed: int) -> LlavaClips:
        """The named split, by a hash of each record's media; ``seed`` decides the order only.

        Raises:
            ValueError: No such split, or no record fell into it.
        """
        rows = self._rows(name)
        if not len(rows):
            raise ValueError(
                f"no record fell into the {name} split of {self.config.path} ({len(self._index)} records); "
                f"raise its share in parts={list(self.config.parts)}"
            )
        return LlavaClips(self._reader, rows, name, seed, self.config.on_bad)

    def scenes(self, name: Split) -> Scenes:
        """Scenes that the media paths of a split's records name."""
        index, rows = self._index, self._rows(name)
        chosen = np.isin(index.scene_row, rows)
        known = index.scene_names[np.unique(index.scene[chosen])]
        unnamed = len(rows) - len(np.unique(index.scene_row[chosen]))
        return Scenes(frozenset(known.tolist()), unnamed)

    def _rows(self, name: Split) -> NDArray[np.intp]:
        if name not in _SPLITS:
            raise ValueError(f"split {name!r}: there are {', '.join(_SPLITS)}")
        which = _SPLITS.index(name)
        edges = np.cumsum([0.0, *self.config.parts])
        share = self._index.group / 2.0**64
        return np.flatnonzero((share >= edges[which]) & (share < edges[which + 1]))


class LlavaClips:
    """Clips of one split in shuffled passes; a conversation is the same clip whenever it comes.

    Attributes:
        bad: What this process found bad.
    """

    def __init__(
        self,
        reader: RecordReader,
        rows: NDArray[np.intp],
        name: Split,
        seed: int,
        on_bad: Literal["substitute", "fail"],
    ) -> None:
        self.bad = BadSamples()
        self._reader, self._rows, self._seed, self._on_bad = reader, rows, seed, on_bad
        self._order = ShuffledPasses(len(rows), seed, name)

    def __len__(self) -> int:
        return len(self._rows)

    def keep_bad_in(self, folder: Path) -> None:
        """Append bad files to ``bad_media.jsonl`` there."""
        self.bad.keep_in(folder)

    def clip(self, index: int) -> MultiViewClip:
        """Clip ``index``, any non-negative integer.

        Raises:
            BadMediaError: With ``on_bad="fail"``, its record or a medium of it is bad.
            UnusableDataError: Its substitutes are bad too.
            MediaPathError: A link leads out of the media folder.
        """
        return read_or_substitute(
            lambda place: self._reader.clip(int(self._rows[place])),
            self._order[index],
            length=len(self._rows),
            seed=self._seed,
            index=index,
            on_bad=self._on_bad,
            bad=self.bad,
        )


def _media_root(config: LlavaJson.Config, paths: list[str]) -> Path:
    if config.media_root is not None:
        root = Path(config.media_root).expanduser()
        if not root.is_dir():
            raise ValueError(f"media_root={config.media_root}: no such folder")
        return root
    first = Path(paths[0]).expanduser()
    return first if first.is_dir() else first.parent
