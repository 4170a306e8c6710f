"""Where each record of a JSON file lies, found without holding the file in memory.

``json.load`` of LLaVA-Video-178K would make gigabytes of Python objects, in every loader process. Here a window
slides over the bytes and the standard decoder takes one value at a time from it; what remains of a record is
its place. The window is decoded as Latin-1, in which each byte is one character: positions in the text are
then positions in the file, and no byte above 127 can be taken for JSON's own punctuation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

WINDOW = 1 << 20
"""Bytes read at a time."""

MAX_RECORD = 64 << 20
"""Bytes of one record at most: a file that is no JSON must not be read into memory whole."""

_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


def scan_records(
    path: Path, on_progress: Callable[[int], object] = lambda size: None
) -> Iterator[tuple[int, int, object]]:
    """``(first byte, number of bytes, value)`` of each record of a JSON array, or of JSON values line by line.

    Args:
        path: The file, in UTF-8.
        on_progress: Called with the number of bytes that were read.

    Raises:
        ValueError: The file is not JSON; says at which byte.
    """
    with path.open("rb") as file:
        yield from _Scanner(path, file, on_progress).records()


def read_record(file: BinaryIO, start: int, length: int) -> object:
    """The record at a place that :func:`scan_records` found.

    Raises:
        ValueError: It is not there any more.
    """
    file.seek(start)
    return json.loads(file.read(length))


class _Scanner:
    def __init__(self, path: Path, file: BinaryIO, on_progress: Callable[[int], object]) -> None:
        self._path, self._file, self._on_progress = path, file, on_progress
        self._text = ""
        self._base = 0  # the file's byte at which the window starts
        self._at = 0  # place in the window
        self._decoder = json.JSONDecoder()

    def records(self) -> Iterator[tuple[int, int, object]]:
        head = self._file.read(len(_BOM))
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"{self._path}: is UTF-16; save it as UTF-8")
        self._base = len(_BOM) if head == _BOM else 0
        self._file.seek(self._base)
        array = self._peek() == "["
        self._at += array
        separate = False
        while (char := self._peek()) not in ("", "]" if array else ""):
            if array and separate:
                if char != ",":
                    raise self._broken("expected ',' or ']'")
                self._at += 1
                self._peek()
            value, length = self._value()
            yield self._base + self._at, length, value
            self._at += length
            separate = True
        if array:
            if char != "]":
                raise self._broken("the list is not closed; is the file cut off?")
            self._at += 1
            if self._peek():
                raise self._broken("something follows the list")

    def _peek(self) -> str:
        """The next character that is no space, or ``""`` at the end of the file."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _value(self) -> tuple[object, int]:
        """The value at this place, and its length."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                raw = self._text[self._at : end]
                # A number at the end of the window may go on behind it.
                if end < len(self._text) or not self._read():
                    return self._decoded(value, raw), len(raw)
            except json.JSONDecodeError as error:
                place = self._base + error.pos
                if len(self._text) - self._at > MAX_RECORD or not self._read():
                    raise self._broken(error.msg, place) from None
            except RecursionError:
                raise self._broken("nested too deep") from None

    def _decoded(self, value: object, raw: str) -> object:
        if raw.isascii():
            return value
        try:
            return json.loads(raw.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError:
            raise self._broken("is not UTF-8") from None

    def _read(self) -> bool:
        """Drop what is done from the window and add to it; a long record doubles it."""
        chunk = self._file.read(max(WINDOW, len(self._text) - self._at))
        self._on_progress(len(chunk))
        self._text = self._text[self._at :] + chunk.decode("latin-1")
        self._base += self._at
        self._at = 0
        return bool(chunk)

    def _broken(self, why: str, place: int | None = None) -> ValueError:
        place = self._base + self._at if place is None else place
        return ValueError(f"{self._path}: not JSON at byte {place} ({why})")
