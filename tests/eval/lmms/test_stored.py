"""Stored replies: found by row, by id, or by a column; never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.stored import StoredReplies


def stored(folder: Path, *lines: object) -> StoredReplies:
    path = folder / "replies.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return StoredReplies.read(folder)


def test_by_row_of_a_task(tmp_path):
    lines = [{"task": "t", "doc_id": k, "reply": f"r{k}"} for k in range(2)]
    found = stored(tmp_path, *lines, {"task": "u", "doc_id": 0, "reply": "other"})
    assert [found.reply("t", k, {}) for k in (1, 0)] == ["r1", "r0"]
    assert found.reply("u", 0, {}) == "other"


def test_ours_by_id_or_by_a_column_of_the_record(tmp_path):
    lines = [
        {"id": str(k), "task": "t", "reply": f"r{k}", "record": {"idx": f"val_{k}"}}
        for k in range(3)
    ]
    found = stored(tmp_path, {"identity": {"engine": "packed"}}, *lines)
    assert found.reply("x", 0, {"id": 2}) == "r2"
    assert found.reply("x", 0, {"idx": "val_1"}) == "r1"
    assert found.reply("x", 2, {"question": ""}, key="row") == "r2"


def test_nothing_is_guessed(tmp_path):
    found = stored(tmp_path, {"id": "0", "reply": "r"})
    with pytest.raises(LmmsError, match="set key=COLUMN of question, or key=row"):
        found.reply("x", 0, {"question": ""})
    with pytest.raises(LmmsError, match=r"no reply to document 4 of x \(id '7'\)"):
        found.reply("x", 4, {"id": 7})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"id": "0"}], "line 1: expected"),
        ([{"reply": "r"}], "line 1: expected"),
        (
            [{"task": "t", "doc_id": 0, "reply": "a"}] * 2,
            "line 2: a second reply to document 0 of t",
        ),
    ],
)
def test_broken_files(tmp_path, lines, words):
    with pytest.raises(LmmsError, match=words):
        stored(tmp_path, *lines)


def test_two_replies_to_one_id(tmp_path):
    found = stored(tmp_path, *[{"id": "0", "reply": "a"}] * 2)
    with pytest.raises(LmmsError, match="two replies to id '0'"):
        found.reply("x", 0, {"id": 0})


def test_a_missing_file(tmp_path):
    with pytest.raises(LmmsError, match="cannot be read"):
        StoredReplies.read(tmp_path / "none.jsonl")
