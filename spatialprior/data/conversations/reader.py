"""One record to one clip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.data.conversations.index import RecordIndex
from spatialprior.data.conversations.record import (
    BadRecordError,
    Conversation,
    Medium,
    parse_record,
)
from spatialprior.data.conversations.scan import read_record
from spatialprior.data.media.errors import BadMediaError
from spatialprior.data.media.images import read_image
from spatialprior.data.media.paths import find_media
from spatialprior.data.media.video import read_video_frames, video_backends

if TYPE_CHECKING:
    from spatialprior.data.conversations.dataset import LlavaJson

_LOOKED_FOR = 16


class RecordReader:
    """Random access to the records of an index; each call opens what it reads, so processes may share it."""

    def __init__(self, index: RecordIndex, media_root: Path, config: LlavaJson.Config) -> None:
        self._index, self._config = index, config
        self._media_root = media_root

    def clip(self, row: int) -> MultiViewClip:
        """The clip of record ``row``.

        Raises:
            BadMediaError: The record, or a medium of it, cannot be used.
        """
        conversation = self.conversation(row).first_turns(self._config.max_turns)
        views: list[list[Tensor]] = []
        frame_ids: list[int] = []
        for medium in conversation.media:
            read = self._views(medium, row)
            views.append(read)
            frame_ids += range(len(frame_ids), len(frame_ids) + len(read))
        return MultiViewClip(
            clip_id=self._name(row),
            source_id=f"{int(self._index.group[row]):016x}",
            images=_stacked([view for read in views for view in read]),
            frame_ids=tuple(frame_ids),
            questions=_questions(conversation, [len(read) for read in views]),
            dialogue=len(conversation.turns) > 1,
        )

    def conversation(self, row: int) -> Conversation:
        """Record ``row``, checked.

        Raises:
            BadMediaError: It is bad.
        """
        path = self._path(row)
        try:
            with path.open("rb") as file:
                record = read_record(
                    file, int(self._index.start[row]), int(self._index.length[row])
                )
            return parse_record(record, system=self._config.system)
        except BadRecordError as error:
            raise BadMediaError(self._name(row), str(error)) from error
        except (OSError, ValueError) as error:
            raise BadMediaError(path, f"has changed since it was indexed ({error})") from error

    def check_some(self) -> None:
        """Read a few records and look for their media, so that a wrong setting is told at once.

        Raises:
            ValueError: All of these records are bad, or none of the media is there.
            RuntimeError: There are videos among them, and no library that reads videos.
        """
        rows = np.unique(np.linspace(0, len(self._index) - 1, _LOOKED_FOR).astype(int)).tolist()
        bad: list[str] = []
        missing: list[str] = []
        asked = 0
        for row in rows:
            try:
                media = self.conversation(row).media
            except BadMediaError as error:
                bad.append(str(error))
                continue
            for medium in media[:1]:
                asked += 1
                try:
                    found = self._find(medium, row)
                except BadMediaError as error:
                    missing.append(str(error))
                    continue
                if medium.kind == "video" and found.is_file():
                    video_backends()
        if len(bad) == len(rows):
            raise ValueError(f"all of the {len(rows)} records looked at are bad, first {bad[0]}")
        # One missing file among records of text is a bad sample, not yet a wrong folder.
        if len(missing) == asked and asked >= min(3, len(rows) - len(bad)) > 0:
            raise ValueError(
                f"none of the {asked} media looked for is there, first {missing[0]}; set media_root to the "
                "folder that the paths in the JSON start from"
            )

    def _views(self, medium: Medium, row: int) -> list[Tensor]:
        config, path = self._config, self._find(medium, row)
        if medium.kind == "image":
            return [read_image(path, config.max_side)]
        return read_video_frames(
            path,
            config.frames,
            fps=config.fps,
            max_side=config.max_side,
            threads=config.decoder_threads,
        ).views

    def _find(self, medium: Medium, row: int) -> Path:
        roots = dict.fromkeys((self._media_root, self._path(row).parent))
        return find_media(medium.path, list(roots), follow_links=self._config.follow_links)

    def _path(self, row: int) -> Path:
        return self._index.files[int(self._index.file[row])]

    def _name(self, row: int) -> str:
        """The file with its folder, and the record's first byte: with ``tail -c +N`` it is there to see."""
        path = self._path(row)
        return f"{path.parent.name}/{path.name}@{int(self._index.start[row])}"


def _questions(conversation: Conversation, counts: list[int]) -> tuple[Question, ...]:
    """Turns as questions, with one mark for each view of a medium.

    Marks that all stand before the first words are left out: without any, views come first.
    """
    texts, remaining = [], list(counts)
    for turn in conversation.turns:
        parts = turn.question.split(IMAGE_MARK)
        text = parts[0]
        for part in parts[1:]:
            text += IMAGE_MARK * remaining.pop(0) + part
        texts.append(text)
    leading = IMAGE_MARK * sum(counts)
    if texts[0].startswith(leading):
        texts[0] = texts[0][len(leading) :].lstrip("\n")
    return tuple(
        Question(conversation.task, text, turn.answer)
        for text, turn in zip(texts, conversation.turns, strict=True)
    )


def _stacked(views: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    same = len({view.shape for view in views}) == 1
    return torch.stack(views) if same else tuple(views)
