"""The door: stored replies in, scores out, in their order."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from spatialprior.eval import score
from spatialprior.eval.published.cv_bench import CvBench
from spatialprior.eval.published.vsi_bench import VsiBench

RECORDS = [
    {"id": 12, "question_type": "object_counting", "ground_truth": "3", "options": None},
    {"id": 5, "question_type": "object_counting", "ground_truth": "0", "options": None},
    {
        "id": "x",
        "question_type": "route_planning",
        "ground_truth": "B",
        "options": ["A. l", "B. r"],
    },
]
REPLIES = [
    {"id": "x", "variant": "a", "reply": "(B)"},
    {"id": 12, "variant": "a", "reply": "3"},
    {"id": "12", "variant": "b", "reply": "3.3"},
    {"id": 5, "variant": "b", "reply": "1"},
    {"id": "x", "variant": "b", "reply": "B"},
]


def write(path: Path, lines: list[Any]) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def run(folder: Path, *more: str, records: Any = RECORDS, replies: Any = REPLIES) -> int:
    return score.main(
        [
            "--benchmark=vsi_bench",
            f"--records={write(folder / 'records.jsonl', records)}",
            f"--replies={write(folder / 'replies.jsonl', replies)}",
            f"--out={folder / 'scores.jsonl'}",
            *more,
        ]
    )


def test_scores_keep_the_order_of_replies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert read(tmp_path / "scores.jsonl") == [
        {"id": "x", "variant": "a", "score": 0.0},
        {"id": 12, "variant": "a", "score": 1.0},
        {"id": "12", "variant": "b", "score": 0.9},
        {"id": 5, "variant": "b", "score": None},
        {"id": "x", "variant": "b", "score": 1.0},
    ]
    said = capsys.readouterr().out
    assert said.startswith("5 replies scored by official, 1 without a score; 1 x ZeroDivisionError")


def test_gzip_on_both_sides_and_sums_by_variant(tmp_path: Path) -> None:
    summary = score.score_files(
        VsiBench,
        write(tmp_path / "records.jsonl.gz", RECORDS),
        write(tmp_path / "replies.jsonl.gz", REPLIES),
        tmp_path / "new" / "scores.jsonl.gz",
        aggregates=tmp_path / "new" / "sums.json",
    )
    assert len(read(tmp_path / "new" / "scores.jsonl.gz")) == 5
    assert json.loads((tmp_path / "new" / "sums.json").read_text()) == summary
    assert summary["n"] == 5 and sum(summary["unscored"].values()) == 1
    assert summary["aggregates"]["a"]["overall"] == 0.5
    assert summary["aggregates"]["b"]["overall"] == pytest.approx((0.45 + 1) / 2)  # null counts 0


def test_protocols_and_rules_can_be_chosen(tmp_path: Path) -> None:
    for option, right in (("--rule=saner", 1.0), ("--protocol=vlmevalkit", 1.0)):
        assert run(tmp_path, option) == 0
        assert read(tmp_path / "scores.jsonl")[0]["score"] == right


def test_records_without_an_id_go_by_their_line(tmp_path: Path) -> None:
    record = {"idx": 9, "choices": ["a", "b"], "answer": "(B)", "source": "COCO"}
    out = tmp_path / "scores.jsonl"
    score.score_files(
        CvBench,
        write(tmp_path / "records.jsonl", [{**record, "answer": "(A)"}, record]),
        write(tmp_path / "replies.jsonl", [{"id": 1, "reply": "B"}, {"id": "0", "reply": "B"}]),
        out,
    )
    assert [line["score"] for line in read(out)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("records", "replies", "message"),
    [
        (RECORDS, [{"id": 13, "reply": "3"}], "replies.jsonl, line 1: no record has the id '13'"),
        ([RECORDS[0]] * 2, REPLIES, "two records have the id '12'"),
        (RECORDS, [REPLIES[0], {"id": 12}], 'replies.jsonl, line 2: expected {"id"'),
        (RECORDS, [{"id": 12, "reply": 3}], 'line 1: expected {"id"'),
        (RECORDS, [[1, 2]], "line 1 holds a list, not a dict"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], records: Any, replies: Any, message: str
) -> None:
    assert run(tmp_path, records=records, replies=replies) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records.jsonl", "replies.jsonl"]


def test_old_scores_survive_a_failure(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    before = (tmp_path / "scores.jsonl").read_bytes()
    assert run(tmp_path, replies=[REPLIES[0], {"id": "y", "reply": ""}]) == 2
    assert (tmp_path / "scores.jsonl").read_bytes() == before


def test_unknown_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--rule=sane") == 2
    assert "did you mean saner?" in capsys.readouterr().err
    assert run(tmp_path, "--protocol=lmms") == 2
    assert "lmms_eval" in capsys.readouterr().err
    for name, message in (
        ("vsi_bensh", "did you mean vsi_bench?"),
        ("rooms_questions", "by a run"),
    ):
        assert run(tmp_path, f"--benchmark={name}") == 2
        assert message in capsys.readouterr().err


def test_sums_say_what_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spatialprior.eval.metrics import text_metrics

    monkeypatch.setattr(text_metrics, "find_spec", lambda name: None)
    records = [{"id": 1, "answers": ["two"]}]
    assert (
        run(tmp_path, "--benchmark=scanqa", records=records, replies=[{"id": 1, "reply": "two"}])
        == 0
    )
    assert "note: BLEU, METEOR, ROUGE and CIDEr are left out" in capsys.readouterr().out


def test_an_odd_record_costs_its_own_score_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"choices": ["x", "y"], "answer": "(A)"}, {"answer": "(A)"}]
    replies = [{"id": 1, "reply": "A"}, {"id": 0, "reply": "A"}]
    sums = tmp_path / "sums.json"
    assert (
        run(tmp_path, "--benchmark=blink", f"--aggregates={sums}", records=records, replies=replies)
        == 0
    )
    assert [line["score"] for line in read(tmp_path / "scores.jsonl")] == [None, 1.0]
    said = capsys.readouterr().out
    assert "1 x KeyError: 'choices'" in said
    assert "note: variant null cannot be summed up (KeyError: 'idx')" in said
    assert json.loads(sums.read_text())["aggregates"] == {}


def test_sums_are_taken_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, rows: object) -> None:
        raise AssertionError("slow sums")

    monkeypatch.setattr(type(VsiBench.rules["official"]), "aggregates", refuse)
    assert run(tmp_path) == 0
    assert len(read(tmp_path / "scores.jsonl")) == 5


def test_variants_and_half_surrogates(tmp_path: Path) -> None:
    sums = tmp_path / "sums.json"
    replies = [
        {"id": "x", "variant": 1, "reply": "\ud800"},
        {"id": "x", "variant": "1", "reply": "B"},
    ]
    assert run(tmp_path, f"--aggregates={sums}", replies=replies) == 0
    assert [line["score"] for line in read(tmp_path / "scores.jsonl")] == [0.0, 1.0]
    assert json.loads(sums.read_text())["aggregates"]["1"]["overall"] == 0.5


def test_what_is_odd_is_told_and_every_reply_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"id": 12, "variant": "a", "reply": reply} for reply in ("3", "4")]
    assert run(tmp_path, replies=lines) == 0
    assert "variant a: 1 replies to records that it has answered already" in capsys.readouterr().out
    assert len(read(tmp_path / "scores.jsonl")) == 2
    sums = f"--aggregates={tmp_path / 'sums.json'}"
    assert run(tmp_path, sums, records=[{"id": 12}], replies=lines[:1]) == 0
    said = "note: variant a cannot be summed up (KeyError: 'question_type')"
    assert said in capsys.readouterr().out


def test_broken_files_and_places_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    parquet = tmp_path / "r.parquet"
    parquet.write_bytes(b"PAR1 and no more")
    zipped = tmp_path / "r.jsonl.gz"
    zipped.write_bytes(gzip.compress(b"{}" * 500)[:-12] + b"x" * 12)
    for more, told in (
        ([f"--records={parquet}"], f"{parquet} cannot be read: "),
        ([f"--records={zipped}"], f"{zipped} cannot be read: "),
        ([f"--out={tmp_path}"], f"{tmp_path} is a folder"),
    ):
        assert run(tmp_path, *more) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
