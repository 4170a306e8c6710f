"""MMSI-Bench: pictures in a table, three prompts, four rules."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from spatialprior.eval.benchmark import LazyViews
from spatialprior.eval.published.mmsi_bench import MmsiBench
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored

RULES = MmsiBench.rules
QUESTION = "Which way? \nOptions: A: left, B: right, C: up, D: down"
ASK = (
    "Answer with the option's letter from the given choices directly. "
    "Enclose the option's letter within ``."
)


def picture(grey: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (6, 4), (grey,) * 3).save(held, "JPEG")
    return held.getvalue()


def record(number: int = 0, kind: str = "Motion (Cam.)", **changes: Any) -> dict[str, Any]:
    asked = {"id": number, "images": [picture(0), picture(255)], "question_type": kind}
    return {**asked, "question": QUESTION, "answer": "D", "thought": "...", **changes}


def benchmark(root: Path, **settings: Any) -> MmsiBench:
    return MmsiBench(MmsiBench.Config(root=str(root), check_counts=False, **settings))


def test_items_hold_several_pictures_each(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([record(4), record(9, "MSR")])
    parquet.write_table(table, tmp_path / "MMSI_Bench.parquet")
    asked = benchmark(tmp_path)
    items = list(asked.items())
    assert [item.item_id for item in items] == ["4", "9"]
    assert asked.tasks == ("Motion (Cam.)", "MSR")
    assert items[0].question.options == ("A", "B", "C", "D")
    assert items[0].record == {"id": 4, "question_type": "Motion (Cam.)", "answer": "D"}
    views = items[0].clip
    assert isinstance(views, LazyViews)
    assert [int(view[0, 0, 0]) for view in views.load().images] == [0, 255]
    with pytest.raises(RecordsError, match="2 questions, published are 1000"):
        _ = MmsiBench(MmsiBench.Config(root=str(tmp_path))).records


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([record()]).drop_columns(["question_type"])
    parquet.write_table(table, tmp_path / "MMSI_Bench.parquet")
    with pytest.raises(RecordsError, match="no column question_type"):
        _ = benchmark(tmp_path).records


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        ("official", f" {QUESTION} \n{ASK}"),
        ("lmms_eval", f"{QUESTION}\n{ASK}"),
        ("vlmevalkit", f" {QUESTION}, \n{ASK}"),
    ],
)
def test_prompts(tmp_path: Path, protocol: str, text: str) -> None:
    assert benchmark(tmp_path, protocol=protocol).prompt(record(question=f" {QUESTION} ")) == text


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("D", (1, 1, 1, 1)),
        ("``D``", (1, 1, 1, 1)),
        ("`A` or ``D``", (1, 1, 0, 0)),
        ("````D", (0, 0, 1, 1)),
        ("d", (0, 1, 1, 1)),
        ("I'd", (0, 1, 0, 0)),
        ("I'd say", (0, 0, 0, 0)),
        ("A {D}", (0, 1, 0, 0)),
        ("D bike", (0, 0, 1, 1)),
        ("D  bike", (1, 1, 1, 1)),
        ("<answer>d</answer>", (0, 1, 1, 1)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_scores(reply: str, scores: tuple[float, ...]) -> None:
    rules = ("official", "lmms_eval", "vlmevalkit", "saner")
    assert tuple(RULES[name].grade(record(), reply).score for name in rules) == scores


def test_the_answer_is_trimmed_and_of_any_case() -> None:
    assert RULES["official"].grade(record(answer=" d\n"), "D").score == 1.0


def test_sums_and_their_scales() -> None:
    dashed = "Positional Relationship (Cam.–Reg.)"
    rows = [
        Scored(record(0, dashed), "", 1.0),
        Scored(record(1, dashed.replace("–", "-")), "", 0.0),
        Scored(record(2, "Attribute (Meas.)"), "", 1.0),
        Scored(record(3, "MSR"), "", 1.0),
    ]
    each = {dashed: 0.5, "Attribute (Meas.)": 1.0, "MSR": 1.0}
    assert RULES["official"].aggregates(rows) == {"overall": 0.75, **each}
    assert RULES["lmms_eval"].aggregates(rows) == {"average": 0.75, **each}
    assert RULES["vlmevalkit"].aggregates(rows) == {
        "overall": 75.0,
        "Pos-Cam-Reg_accuracy": 50.0,
        "Attr-Meas_accuracy": 100.0,
        "MSR_accuracy": 100.0,
    }


@given(st.text(), st.sampled_from(sorted(RULES)))
def test_any_reply_is_right_or_wrong(reply: str, rule: str) -> None:
    graded = RULES[rule].grade({"answer": "A", "question_type": "MSR"}, reply)
    assert graded.score in (0.0, 1.0)
    assert graded.unscored is None
