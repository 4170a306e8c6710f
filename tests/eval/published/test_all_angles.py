"""All-Angles Bench: layout, prompt, rule, and the consistency of pairs in closed form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.benchmark import LazyViews
from spatialprior.eval.published.all_angles import AllAngles
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored
from spatialprior.eval.score import main

OFFICIAL, SANER = AllAngles.rules["official"], AllAngles.rules["saner"]


def record(index: int, pair: Any = None, **changes: Any) -> dict[str, Any]:
    paths = [f"scene/cam{view}.png" for view in (2, 1)]
    known = {"index": index, "folder": "scene", "category": "counting", "pair_idx": pair}
    asked = {"image_path": paths, "question": "How many?", "A": "one", "B": "two", "C": "3"}
    return {**known, **asked, "answer": "B", "sourced_dataset": "EgoHumans", **changes}


def layout(root: Path, records: list[dict[str, Any]]) -> Path:
    (root / "scene").mkdir()
    for view, grey in ((1, 50), (2, 200)):
        Image.new("RGB", (6, 4), (grey,) * 3).save(root / f"scene/cam{view}.png")
    (root / "data.json").write_text(json.dumps(records))
    return root


def benchmark(root: Path, **settings: Any) -> AllAngles:
    return AllAngles(AllAngles.Config(root=str(root), check_counts=False, **settings))


def test_items_show_the_views_in_their_listed_order(tmp_path: Path) -> None:
    root = layout(tmp_path, [record(0, 1), record(1, 0)])
    items = list(benchmark(root).items())
    assert [item.item_id for item in items] == ["0", "1"]
    assert items[0].question.text == (
        "Question: How many?\nOptions:\nA. one\nB. two\nC. 3\n"
        "Please select the correct answer from the options above. \n"
    )
    assert items[0].question.options == ("A. one", "B. two", "C. 3")
    assert items[0].record["pair_idx"] == 1
    assert "image_path" not in items[0].record
    assert isinstance(items[0].clip, LazyViews)
    views = items[0].clip.load()
    assert isinstance(views, MultiViewClip)
    assert [int(view[0, 0, 0]) for view in views.images] == [200, 50]
    assert views.source_id == "scene"


def test_questions_are_counted_and_columns_checked(tmp_path: Path) -> None:
    root = layout(tmp_path, [record(0)])
    with pytest.raises(RecordsError, match="1 questions, published are 2132"):
        _ = AllAngles(AllAngles.Config(root=str(root))).records
    lacking = record(0)
    del lacking["C"]
    (root / "data.json").write_text(json.dumps([lacking]))
    with pytest.raises(RecordsError, match="record 0: no column C"):
        _ = benchmark(root).records


def test_links_that_make_no_pairs_are_refused_at_load(tmp_path: Path) -> None:
    root = layout(tmp_path, [record(0, 1), record(1, 2), record(2, 1)])
    with pytest.raises(
        RecordsError, match=r"question 0 is linked to 1, but 1 to 2 \(1 such links\)"
    ):
        _ = benchmark(root).records
    asked = benchmark(root, check_pairs=False)
    rows = [Scored(each, "", 1.0) for _, each in asked.records]
    assert "links between questions were not checked" in asked.protocol["deviations"]
    found = OFFICIAL.aggregates(rows)
    assert (found["pairs"], found["broken_links"]) == (1.0, 1.0)


def test_a_column_that_is_missing_everywhere_is_no_link(tmp_path: Path) -> None:
    unlinked = record(0)
    del unlinked["pair_idx"]
    assert len(benchmark(layout(tmp_path, [unlinked])).records) == 1


@pytest.mark.parametrize(
    ("reply", "score", "parsed"),
    [
        ("B", 1.0, "B"),
        ("(A) one", 0.0, "A"),
        ("there are two of them", 1.0, "B"),
        ("I can't process this file.", 0.0, None),
        ("B x x x x x x x x x x", 1.0, "B"),
    ],
)
def test_official_scores(reply: str, score: float, parsed: str | None) -> None:
    graded = OFFICIAL.grade(record(0), reply)
    assert (graded.score, graded.parsed, graded.unscored) == (score, parsed, None)


@pytest.mark.parametrize("reply", ["", "A or B", "no idea", "The answer is **B**. Because A ..."])
def test_what_a_judge_would_read_has_no_score(reply: str) -> None:
    assert OFFICIAL.grade(record(0), reply).unscored == "judge"
    assert OFFICIAL.grade(record(0), reply).score is None


def test_absent_options_are_not_offered() -> None:
    assert OFFICIAL.grade(record(0, C=None), "C").unscored == "judge"
    assert OFFICIAL.grade(record(0, C=float("nan")), "C").unscored == "judge"


def test_saner_reads_what_the_official_rule_leaves_to_a_judge() -> None:
    assert SANER.grade(record(0), "The answer is **B**. Because A ...").score == 1.0
    assert SANER.grade(record(0), "no idea").score == 0.0


def test_sums_in_closed_form() -> None:
    """Four pairs: CC and IC in counting, WW and IC in manipulation; one question unlinked, one dangling."""
    manipulation = {"category": "manipulation"}
    scores = [
        (record(0, 1), 1.0),
        (record(1, 0.0), 1.0),
        (record(2, "3"), 1.0),
        (record(3, 2), None),  # for the judge: wrong
        (record(4, 5, **manipulation), 0.0),
        (record(5, 4, **manipulation), 0.0),
        (record(6, 7, **manipulation), 0.0),
        (record(7, 6, **manipulation), 1.0),
        (record(8, ""), 1.0),
        (record(9, 99), 0.0),
    ]
    found = OFFICIAL.aggregates([Scored(each, "", score) for each, score in scores])
    assert found == {
        "Overall": 0.5,
        "counting": pytest.approx(4 / 6),
        "manipulation": 0.25,
        "CC": 25.0,
        "WW": 25.0,
        "IC": 50.0,
        "counting_CC": 50.0,
        "counting_WW": 0.0,
        "counting_IC": 50.0,
        "manipulation_CC": 0.0,
        "manipulation_WW": 50.0,
        "manipulation_IC": 50.0,
        "pairs": 4.0,
        "broken_links": 0.0,
    }


def test_without_pairs_there_are_no_shares_of_them() -> None:
    found = OFFICIAL.aggregates([Scored(record(0), "", 1.0)])
    assert found == {"Overall": 1.0, "counting": 1.0, "pairs": 0.0, "broken_links": 0.0}


def test_the_door_scores_by_line_number(tmp_path: Path) -> None:
    records, replies, out = tmp_path / "r.jsonl", tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    bare = {key: value for key, value in record(7).items() if key != "image_path"}
    records.write_text(json.dumps(bare) + "\n")
    replies.write_text(json.dumps({"id": "0", "variant": None, "reply": "B"}) + "\n")
    asked = ["--benchmark", "all_angles", "--records", records, "--replies", replies, "--out", out]
    assert main([str(each) for each in asked]) == 0
    assert json.loads(out.read_text()) == {"id": "0", "variant": None, "score": 1.0}


@given(st.text())
def test_any_reply_is_right_wrong_or_for_the_judge(reply: str) -> None:
    graded = OFFICIAL.grade(record(0), reply)
    assert graded.score in (0.0, 1.0) or (graded.score, graded.unscored) == (None, "judge")
    assert SANER.grade(record(0), reply).score in (0.0, 1.0)
