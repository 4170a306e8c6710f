"""Chats of lmms-eval as clips: order of views and text, what shares a prefix, what is refused, batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.eval.lmms.answering import batches
from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.messages import as_clip, read_chat


def picture(colour: str) -> dict[str, Any]:
    return {"type": "image", "url": Image.new("RGB", (16, 8), colour)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def test_views_in_front_are_shared_and_leave_no_mark():
    chats = [
        read_chat(user(picture("red"), picture("blue"), text(words))) for words in ("a?", "b?")
    ]
    assert chats[0].key == chats[1].key is not None
    assert read_chat(user(picture("red"), text("a?"))).key != chats[0].key
    clip = as_clip(chats, "c", 32)
    assert tuple(clip.images.shape) == (2, 3, 8, 16)
    assert clip.images[0, 0, 0, 0] == 255 and clip.images[1, 2, 0, 0] == 255
    assert [question.text for question in clip.questions] == ["a?", "b?"] and not clip.dialogue


def test_views_between_words_keep_their_place_and_stand_alone():
    chat = read_chat(
        user(text("first "), picture("red"), text(" second "), picture("blue"), text("?"))
    )
    assert chat.key is None
    (question,) = as_clip([chat], "c", 32).questions
    assert question.text == f"first {IMAGE_MARK} second {IMAGE_MARK}?"


def test_turns_become_a_dialogue():
    said = {"role": "assistant", "content": [text("yes")]}
    chat = read_chat([*user(picture("red"), text("a?")), said, *user(picture("blue"), text("b?"))])
    clip = as_clip([chat], "c", 32)
    assert clip.dialogue and chat.key is None
    assert [(q.text, q.answer) for q in clip.questions] == [
        (f"{IMAGE_MARK}a?", "yes"),
        (f"{IMAGE_MARK}b?", ""),
    ]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (user({"type": "audio", "url": "a.wav"}), "a task with audio"),
        (user({"type": "video", "url": "a.mp4", "end_time": 3.0}), "part of a video"),
        (user({"type": "video", "url": {"url": "a.mp4", "video_start": 1}}), "part of a video"),
        ([{"role": "system", "content": "be kind"}, *user(text("a?"))], "role 'system'"),
        (user(text(f"a{IMAGE_MARK}")), "U\\+FFFC"),
        ([], "without a question"),
    ],
)
def test_what_we_do_not_have_is_told(messages, words):
    with pytest.raises(LmmsError, match=words):
        read_chat(messages)


def test_batches_hold_whole_groups_longest_first_and_dialogues_apart():
    def about(path: str, words: str) -> Any:
        return read_chat(user({"type": "video", "url": path}, text(words)))

    talk = read_chat([*user(text("a?")), {"role": "assistant", "content": "b"}, *user(text("c?"))])
    chats = {i: about(f"{'xy'[i % 2]}.mp4", "w" * (i + 1)) for i in range(4)} | {
        4: talk,
        5: about("z.mp4", "w"),
    }
    assert list(batches(chats, 3, shared=True)) == [[[4]], [[1, 3], [0, 2]], [[5]]]
    plain = list(batches(chats, 3, shared=False))
    assert plain == [[[4]], [[3], [2], [1]], [[0], [5]]]
    many = {i: about("x.mp4", "w") for i in range(70)}
    assert [len(group) for batch in batches(many, 8, shared=True) for group in batch] == [32, 32, 6]
    assert about("x.mp4", "w").turns[0].visuals == [Path("x.mp4")]
