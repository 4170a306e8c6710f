"""VSI-Bench: prompts byte for byte, three code bases' scores, sums, and a layout made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored
from spatialprior.eval.published.vsi_bench import CHOICE, NUMERIC, VsiBench

RULES = VsiBench.rules


def numeric(truth: Any = "3", kind: str = "object_counting") -> dict[str, Any]:
    return {"question_type": kind, "ground_truth": truth, "options": None}


def choice(truth: Any = "B", kind: str = "route_planning") -> dict[str, Any]:
    return {
        "question_type": kind,
        "ground_truth": truth,
        "options": ["A. chair", "B. table", "C. lamp", "D. bed"],
    }


@pytest.mark.parametrize(
    ("reply", "official", "lmms_eval", "vlmevalkit", "saner"),
    [
        ("B", 1, 1, 1, 1),
        ("b", 1, 1, 1, 1),
        ("B.", 1, 1, 1, 1),
        ("B\n", 1, 1, 1, 1),
        ("B.\n", 0, 0, 1, 1),
        ("B. table", 1, 1, 1, 1),
        ("(B)", 0, 0, 1, 1),
        ("B,", 0, 0, 1, 1),
        (" B", 0, 0, 1, 1),
        ("The answer is B", 0, 0, 1, 1),
        ("table", 0, 0, 0, 1),
        ("A", 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_choices(
    reply: str, official: float, lmms_eval: float, vlmevalkit: float, saner: float
) -> None:
    expected = {
        "official": official,
        "lmms_eval": lmms_eval,
        "vlmevalkit": vlmevalkit,
        "saner": saner,
    }
    assert {name: rule.grade(choice(), reply).score for name, rule in RULES.items()} == expected


@pytest.mark.parametrize(
    ("reply", "official", "lmms_eval", "vlmevalkit", "saner"),
    [
        ("3", 1, 1, 1, 1),
        ("3. ", 1, 1, 1, 1),
        ("3.\n", 1, 1, 1, 1),
        ("3 chairs", 1, 1, 1, 1),
        ("3\nm", 0, 1, 1, 1),
        (" 3", 0, 1, 1, 1),
        ("three", 0, 1, 1, 1),
        ("3m", 0, 1, 1, 1),
        ("About 3", 0, 1, 1, 1),
        ("3 of 5", 1, 1, 0, 0),
        ("٣", 1, 1, 1, 1),
        ("3.3", 0.9, 0.9, 0.9, 0.9),
        ("1.5", 0.1, 0.1, 0.1, 0.1),
        ("nan", 0, 0, 0, 0),
        ("1e400", 0, 0, 0, 0),
        ("-3", 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_numbers(
    reply: str, official: float, lmms_eval: float, vlmevalkit: float, saner: float
) -> None:
    found = {name: rule.grade(numeric(), reply).score for name, rule in RULES.items()}
    assert found == {
        "official": official,
        "lmms_eval": lmms_eval,
        "vlmevalkit": vlmevalkit,
        "saner": saner,
    }


def test_thousands_end_at_the_comma_in_lmms_eval() -> None:
    scores = {name: rule.grade(numeric("3000"), "3,000").score for name, rule in RULES.items()}
    assert scores == {"official": 0, "lmms_eval": 0, "vlmevalkit": 0, "saner": 1}


def test_a_crash_of_the_official_code_is_no_score() -> None:
    for name in ("official", "lmms_eval"):
        graded = RULES[name].grade(numeric("0"), "3")
        assert graded.score is None and graded.unscored.startswith("ZeroDivisionError")
        assert RULES[name].grade(numeric("0"), "many").score == 0  # it never gets to the division
        assert RULES[name].grade(numeric(kind="other"), "3").unscored.startswith("ValueError")
        assert RULES[name].grade(choice(truth=None), "B").unscored.startswith("AttributeError")
    assert RULES["lmms_eval"].grade(numeric(), "hundred " * 200).unscored.startswith("Overflow")
    assert RULES["vlmevalkit"].grade(numeric("0"), "0.04").score == 1
    assert [RULES["saner"].grade(numeric("0"), r).score for r in ("0", "1")] == [1, 0]


def test_a_truth_that_is_no_number_makes_a_reply_wrong() -> None:
    assert [RULES["official"].grade(numeric(t), "3").score for t in ("x", None, 3)] == [0, 0, 1]


def test_what_was_parsed_is_one_letter_or_a_number() -> None:
    official = RULES["official"]
    assert [official.grade(choice(), r).parsed for r in ("b", "AB", "")] == ["B", None, None]
    assert [official.grade(numeric(), r).parsed for r in ("3.0 m", "m")] == ["3", None]


def rows(scores: dict[str, list[float | None]]) -> list[Scored]:
    return [
        Scored({"question_type": task, "ground_truth": "1"}, "", score)
        for task, part in scores.items()
        for score in part
    ]


def test_directions_count_once_and_tasks_alike() -> None:
    scores: dict[str, list[float | None]] = {task: [0.5] for task in (*NUMERIC, *CHOICE)}
    scores["object_rel_direction_easy"] = [1.0] * 7
    scores["object_rel_direction_medium"] = [0.0]
    scores["object_rel_direction_hard"] = [0.5, None]
    found = RULES["official"].aggregates(rows(scores))
    direction = (1 + 0 + 0.25) / 3
    assert found["object_rel_direction_accuracy"] == pytest.approx(direction)
    assert found["overall"] == pytest.approx((7 * 0.5 + direction) / 8)
    assert found["object_counting_MRA:.5:.95:.05"] == 0.5 and len(found) == 9
    theirs = RULES["lmms_eval"].aggregates(rows(scores))
    assert theirs["object_counting_mra"] == 0.5
    assert theirs["vsibench_overall"] == round(found["overall"], 6)
    assert RULES["vlmevalkit"].aggregates(rows(scores))["overall"] == 100 * found["overall"]


def test_sums_of_chosen_tasks_have_no_row_for_others() -> None:
    assert set(RULES["official"].aggregates(rows({"route_planning": [1.0]}))) == {
        "route_planning_accuracy",
        "overall",
    }
    some = RULES["official"].aggregates(rows({"object_rel_direction_easy": [1.0]}))
    assert some == {"object_rel_direction_accuracy": 1.0, "overall": 1.0}


@given(
    st.sampled_from(sorted(RULES)),
    st.sampled_from([*NUMERIC, *CHOICE, "other"]),
    st.one_of(st.text(max_size=5), st.sampled_from(["A", "3", "0"]), st.none(), st.integers()),
    st.one_of(st.text(), st.text("ABC123 .,()<>answer/\n[]-e"), st.floats().map(str)),
)
def test_no_rule_raises(name: str, kind: str, truth: Any, reply: str) -> None:
    options = None if kind in NUMERIC else ["A. x", "B. y"]
    record = {"question_type": kind, "ground_truth": truth, "options": options}
    graded = RULES[name].grade(record, reply)
    assert (graded.score is None) == (graded.unscored is not None)
    assert graded.score is None or 0 <= graded.score <= 1


# --- the official layout ------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, make_video: Any) -> Path:
    """Two questions about one video, one about another."""
    common = {"dataset": "scannet", "scene_name": "scene0000_00", "pruned": False}
    records = [
        {"id": 7, **common, **numeric("4"), "question": "How many chairs?"},
        {"id": 3, **common, "scene_name": "scene0001_00", **choice("A"), "question": "Which way?"},
        {"id": 5, **common, **choice(), "question": "Where first?"},
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    (tmp_path / "scannet").mkdir()
    make_video(tmp_path / "scannet" / "scene0000_00.mp4", length=12)
    return tmp_path


def bench(root: Path, **settings: Any) -> VsiBench:
    settings = {"check_counts": False, **settings}
    return VsiBench(VsiBench.Config(root=str(root), **settings))


def test_prompts(root: Path) -> None:
    items = {item.item_id: item.question.text for item in bench(root).items()}
    assert items["7"] == (
        "These are frames of a video.\nHow many chairs?\n"
        "Please answer the question using a single word or phrase."
    )
    assert items["5"] == (
        "These are frames of a video.\nWhere first?\nOptions:\nA. chair\nB. table\nC. lamp\nD. bed\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert items == {
        item.item_id: item.question.text for item in bench(root, protocol="lmms_eval").items()
    }
    theirs = {
        item.item_id: item.question.text for item in bench(root, protocol="vlmevalkit").items()
    }
    assert theirs["7"] == (
        "These are frames of a video.\nHow many chairs?\n"
        "Answer briefly and directly in one float number."
    )
    assert theirs["5"] == (
        "These are frames of a video.\nWhere first?\nA. chair\nB. table\nC. lamp\nD. bed\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_items_read_their_video(root: Path) -> None:
    items = list(bench(root, frames=4).items())
    assert [item.item_id for item in items] == ["7", "5", "3"]  # one scene after the other
    assert items[0].clip.clip_id == items[1].clip.clip_id == "scannet/scene0000_00"
    clip = items[0].clip.load()
    assert clip.num_views == 4 and clip.source_id == "scannet/scene0000_00"
    assert items[1].question.options == ("A. chair", "B. table", "C. lamp", "D. bed")
    assert items[0].record == {
        "question_type": "object_counting",
        "ground_truth": "4",
        "options": None,
    }
    graded = bench(root).grade("B", items[1])
    assert graded.score == 1.0


def test_other_data_is_refused(root: Path) -> None:
    with pytest.raises(RecordsError, match="3 questions, published are 5130"):
        _ = bench(root, check_counts=True).records
    with pytest.raises(RecordsError, match=r"test_debiased\.parquet"):
        _ = bench(root, split="debiased").records
    (root / "test.jsonl").write_text('{"id": 1, "question": "?"}\n')
    with pytest.raises(RecordsError, match="no column dataset, scene_name"):
        _ = bench(root).records


def test_a_record_of_another_form_is_named(root: Path) -> None:
    lines = [json.loads(line) for line in (root / "test.jsonl").read_text().splitlines()]
    lines[0]["options"] = 5
    (root / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = rf"vsi_bench, record {lines[0]['id']} is not as published \(TypeError: "
    with pytest.raises(RecordsError, match=named):
        list(bench(root).items())


def test_published_counts_add_up() -> None:
    splits = VsiBench.spec.data.splits
    for split in splits.values():
        assert sum(split.tasks.values()) == split.count
        assert set(split.tasks) == {*NUMERIC, *CHOICE}
    full, debiased, pruned = (splits[name] for name in ("full", "debiased", "pruned"))
    assert all(full.tasks[t] == debiased.tasks[t] + pruned.tasks[t] for t in full.tasks)
