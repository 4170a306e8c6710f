"""One record of an instruction data set, checked: who says what, and which medium stands where.

Read are LLaVA's own form (``conversations`` of ``from``/``value``, media under ``image`` or ``video``, a
``<image>`` in the text for either) and the chat form (``messages`` of ``role``/``content``, where content may
be a list of parts). A record that is neither, or contradicts itself, is a bad one and says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from spatialprior.core.clip import IMAGE_MARK

MediumKind = Literal["image", "video"]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_PLACEHOLDER = re.compile(r"<(image|video)>")
_CONTROL_TOKEN = re.compile(r"<\|[A-Za-z_]+\|>")


class BadRecordError(ValueError):
    """A record that cannot be used; the message says why."""


@dataclass(frozen=True)
class Medium:
    """A picture or a video, by its path as the data set writes it."""

    kind: MediumKind
    path: str


@dataclass(frozen=True)
class Turn:
    """What the user says and the expected reply; :data:`IMAGE_MARK` stands where a medium stands."""

    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """A record.

    Attributes:
        media: In the order in which the turns mention them.
        turns: At least one.
        task: The data set's own name for where the record comes from, or ``instruction``.
    """

    media: tuple[Medium, ...]
    turns: tuple[Turn, ...]
    task: str = "instruction"

    def first_turns(self, count: int | None) -> Conversation:
        """The conversation cut after ``count`` turns, with the media that are mentioned until then."""
        if count is None or len(self.turns) <= count:
            return self
        turns = self.turns[:count]
        mentioned = sum(turn.question.count(IMAGE_MARK) for turn in turns)
        return Conversation(self.media[:mentioned], turns, self.task)


def parse_record(record: object, *, system: Literal["refuse", "drop"] = "refuse") -> Conversation:
    """Check a record.

    Args:
        record: What the JSON holds.
        system: ``refuse`` makes a system turn a bad record (the model's own template has a system turn);
            ``drop`` leaves it out.

    Raises:
        BadRecordError: The record is none, or contradicts itself.
    """
    if not isinstance(record, Mapping):
        raise BadRecordError(f"a {_json_type(record)}, not an object")
    said = list(_said(record))
    if said and said[0][0] == "system":
        if system == "refuse":
            raise BadRecordError("has a system turn; instruction.system=drop leaves it out")
        said = said[1:]
    if not said:
        raise BadRecordError("holds no turn")
    if len(said) % 2:
        raise BadRecordError(f"ends with an unanswered turn of the {said[-1][0]}")
    inline = [medium for _, _, media in said for medium in media]
    media = inline or _declared(record)
    turns = []
    for i in range(0, len(said), 2):
        (asker, question, _), (replier, answer, _) = said[i : i + 2]
        if (asker, replier) != ("user", "assistant"):
            raise BadRecordError(f"turn {i + 1} is of the {asker}, turn {i + 2} of the {replier}")
        turns.append(_turn(question, answer, i + 1))
    ordered = _matched(
        media, [kind for turn in turns for kind in _PLACEHOLDER.findall(turn.question)]
    )
    marked = tuple(Turn(_marked(turn.question), turn.answer) for turn in turns)
    source = record.get("data_source")
    task = source if isinstance(source, str) and source else "instruction"
    return Conversation(ordered, marked, task)


def declared_paths(record: object) -> list[str]:
    """Paths of all media that a record names, good or bad: what decides its split."""
    if not isinstance(record, Mapping):
        return []
    try:
        inline = [medium for _, _, media in _said(record) for medium in media]
        return [medium.path for medium in inline or _declared(record)]
    except BadRecordError:
        return []


def _said(record: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Medium]]]:
    """``(role, text with placeholders, media named in the text's parts)`` of every turn."""
    name = next(
        (name for name in ("conversations", "messages") if record.get(name) is not None), None
    )
    if name is None:
        known = ", ".join(list(map(str, record))[:6]) or "none"
        raise BadRecordError(f"has neither conversations nor messages (keys: {known})")
    turns = record[name]
    if not isinstance(turns, list):
        raise BadRecordError(f"{name} is a {_json_type(turns)}, not a list")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise BadRecordError(f"turn {number} is a {_json_type(turn)}, not an object")
        spoken, content = (
            turn.get(llava, turn.get(chat))
            for llava, chat in (("from", "role"), ("value", "content"))
        )
        role = _ROLES.get(spoken.casefold()) if isinstance(spoken, str) else None
        if role is None:
            raise BadRecordError(f"turn {number} is of {spoken!r}; known are {', '.join(_ROLES)}")
        yield (role, *_content(content, number))


def _content(content: object, number: int) -> tuple[str, list[Medium]]:
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise BadRecordError(f"turn {number} holds a {_json_type(content)}, not text")
    text, media = "", []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind in ("image", "video", "image_url", "video_url"):
            short: MediumKind = "image" if kind.startswith("image") else "video"
            text += f"<{short}>"
            path = next((part[k] for k in (kind, "path", "url", short) if part.get(k)), None)
            path = path.get("url") if isinstance(path, Mapping) else path
            if path is not None:
                media.append(Medium(short, _local(path)))
        else:
            raise BadRecordError(f"turn {number} holds a part of type {kind!r}")
    return text, media


def _declared(record: Mapping[str, Any]) -> list[Medium]:
    """Media listed beside the conversation."""
    media = []
    kinds: tuple[tuple[MediumKind, tuple[str, str]], ...] = (
        ("image", ("image", "images")),
        ("video", ("video", "videos")),
    )
    for kind, names in kinds:
        given = [record[name] for name in names if record.get(name)]
        if len(given) > 1 and given[0] != given[1]:
            raise BadRecordError(f"has both {names[0]} and {names[1]}")
        for paths in given[:1]:
            listed = paths if isinstance(paths, list) else [paths]
            media += [Medium(kind, _local(path)) for path in listed]
    return media


def _local(path: object) -> str:
    if isinstance(path, Mapping) and "path" in path:
        path = path["path"]
    if not isinstance(path, str) or not path:
        raise BadRecordError(f"names a medium by a {_json_type(path)}, not by a path")
    if "://" in path[:12] or path.startswith("data:"):
        raise BadRecordError(f"names a medium by address ({path[:40]}...); only files are read")
    return path


def _turn(question: str, answer: str, number: int) -> Turn:
    if not answer.strip():
        raise BadRecordError(f"turn {number + 1} is empty, so there is nothing to learn")
    if not question.strip():
        raise BadRecordError(f"turn {number} is empty")
    if _PLACEHOLDER.search(answer):
        raise BadRecordError(f"turn {number + 1} has a placeholder in a reply")
    for text in (question, answer):
        if IMAGE_MARK in text:
            raise BadRecordError("has U+FFFC in its text, which marks pictures here")
        if control := _CONTROL_TOKEN.search(text):
            raise BadRecordError(
                f"has {control.group()} in its text, a control token of chat models"
            )
    return Turn(question, answer.strip())


def _matched(media: list[Medium], placeholders: list[str]) -> tuple[Medium, ...]:
    """The media in the order of the placeholders; ``<image>`` also stands for a video, as LLaVA-Video has it.

    Raises:
        BadRecordError: Their numbers differ.
    """
    queues: dict[str, list[Medium]] = {
        kind: [medium for medium in media if medium.kind == kind] for kind in ("image", "video")
    }
    counted = f"{len(placeholders)} placeholders for {len(media)} media"
    if len(placeholders) != len(media):
        raise BadRecordError(f"has {counted}")
    ordered = []
    for kind in placeholders:
        # With as many of each kind as are asked for, every placeholder finds its own.
        queue = queues[kind] or queues["video" if kind == "image" else "image"]
        if kind == "video" and not queues["video"]:
            raise BadRecordError(f"has {counted}, but a <video> without a video")
        ordered.append(queue.pop(0))
    return tuple(ordered)


def _marked(question: str) -> str:
    """Placeholders as :data:`IMAGE_MARK`; the line break that LLaVA puts between them and the text goes."""
    text = _PLACEHOLDER.sub(IMAGE_MARK, question)
    text = re.sub(rf"{IMAGE_MARK}\n", IMAGE_MARK, text)
    return re.sub(rf"\n{IMAGE_MARK}\Z", IMAGE_MARK, text).strip()


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")
