"""SPAR-Bench: twenty tasks, three kinds of answers, the official faults and their repair."""

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
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored
from spatialprior.eval.published.spar_bench import HIGH, LOW, MIDDLE, SparBench

RULES = SparBench.rules
NAMES = ("official", "lmms_eval", "vlmevalkit", "saner")
ONE, MANY = "depth_prediction_oc", "depth_prediction_oc_mv"
CHOICE, VIEW = "obj_spatial_relation_oo", "view_change_infer"


def picture(grey: int) -> dict[str, Any]:
    held = io.BytesIO()
    Image.new("RGB", (6, 4), (grey,) * 3).save(held, "PNG")
    return {"bytes": held.getvalue(), "path": None}


def record(task: str, answer: str = "B", number: int = 0, **changes: Any) -> dict[str, Any]:
    kind = {"img_type": "multi_view", "format_type": "select", "source": "scannet"}
    asked = {"id": number, "task": task, "image": [picture(10), picture(20)]}
    return {**asked, **kind, "question": "Where? A. left B. right", "answer": answer, **changes}


def scores(task: str, answer: str, reply: str) -> tuple[float | None, ...]:
    return tuple(RULES[name].grade(record(task, answer), reply).score for name in NAMES)


def benchmark(root: Path, **settings: Any) -> SparBench:
    return SparBench(SparBench.Config(root=str(root), check_counts=False, **settings))


def write(root: Path, *shards: list[dict[str, Any]]) -> Path:
    (root / "data").mkdir()
    for number, shard in enumerate(shards):
        name = f"data/test-{number:05}-of-{len(shards):05}.parquet"
        parquet.write_table(pa.Table.from_pylist(shard), root / name)
    return root


def test_there_are_twenty_tasks() -> None:
    assert len({*LOW, *MIDDLE, *HIGH}) == len(LOW) + len(MIDDLE) + len(HIGH) == 20
    assert set(SparBench.spec.data.splits["tiny"].tasks) == {*LOW, *MIDDLE, *HIGH}


def test_shards_are_read_in_order_and_pictures_are_within(tmp_path: Path) -> None:
    other = record(ONE, "2", 2, image=[picture(30)])
    root = write(tmp_path, [record(ONE, "1.5", 0)], [other, record(CHOICE, "B", 3)])
    asked = benchmark(root)
    assert [name for name, _ in asked.records] == ["0", "2", "3"]
    items = {item.item_id: item for item in asked.items()}
    assert items["0"].clip.clip_id == items["3"].clip.clip_id != items["2"].clip.clip_id
    views = items["0"].clip
    assert isinstance(views, LazyViews)
    assert [int(view[0, 0, 0]) for view in views.load().images] == [10, 20]
    assert items["3"].question.options == ("A", "B")
    assert items["0"].question.options == ()
    assert items["3"].record == {"id": 3, "task": CHOICE, "answer": "B"}


def test_ids_that_repeat_between_tasks_are_told_apart(tmp_path: Path) -> None:
    root = write(tmp_path, [record(ONE), record(CHOICE)])
    assert [name for name, _ in benchmark(root).records] == [f"{ONE}-0", f"{CHOICE}-0"]


def test_counts_and_columns(tmp_path: Path) -> None:
    root = write(tmp_path, [record(ONE)])
    with pytest.raises(RecordsError, match="1 questions, published are 7211"):
        _ = SparBench(SparBench.Config(root=str(root))).records
    with pytest.raises(RecordsError, match="1 questions, published are 1000"):
        _ = SparBench(SparBench.Config(root=str(root), split="tiny")).records
    lacking = pa.Table.from_pylist([record(ONE)]).drop_columns(["task"])
    parquet.write_table(lacking, root / "data/test-00000-of-00001.parquet")
    with pytest.raises(RecordsError, match="no column task"):
        _ = benchmark(root).records


@pytest.mark.parametrize("protocol", ["official", "lmms_eval", "vlmevalkit"])
@pytest.mark.parametrize(
    ("task", "text"),
    [
        (MANY, "\nQ\nPlease answer the question using a single word or phrase."),
        (CHOICE, "\nQ\n\nAnswer with the option's letter from the given choices directly."),
        (
            "position_matching",
            "\nQ\nThe values represent the bounding box coordinates normalized to a 0-1000 scale, with "
            "the top-left corner as the origin of the image.\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        (VIEW, "\nQ\n\n"),
    ],
)
def test_prompts(tmp_path: Path, protocol: str, task: str, text: str) -> None:
    assert benchmark(tmp_path, protocol=protocol).prompt(record(task, question="Q")) == text


@pytest.mark.parametrize(
    ("answer", "reply", "expected"),
    [
        ("B", "B", (1, 1, 1, 1)),
        ("B", "b", (1, 1, 1, 1)),
        ("B", "", (1, 1, 0, 0)),
        ("B", "B. right", (1, 1, 1, 1)),
        ("A", "And so", (1, 1, 0, 0)),
        ("B", " B", (0, 0, 1, 1)),
        ("B", "(B)", (0, 0, 1, 1)),
        ("B. right", " ", (1, 1, 0, 0)),
        ("B. right", ".", (1, 1, 0, 0)),
        ("B. right", "B", (1, 1, 1, 1)),
        ("B. right", "Because", (0, 0, 0, 0)),
        ("B", "C", (0, 0, 0, 0)),
    ],
)
def test_choices(answer: str, reply: str, expected: tuple[float, ...]) -> None:
    assert scores(CHOICE, answer, reply) == expected


@pytest.mark.parametrize(
    ("task", "answer", "reply", "expected"),
    [
        (ONE, "2", "2", (1, 1, 1, 1)),
        (ONE, "2", "2 then 9", (1, 1, 0, 0)),
        (MANY, "2", "9 then 2", (1, 1, 1, 0)),
        (ONE, "2", "^12", (1, 1, 0, 0)),
        (ONE, "1", "1.1", (0.9, 0.9, 0.9, 0.9)),
        (ONE, "1", "0.5", (0.1, 0.1, 0.1, 0.1)),
        (ONE, "2", "-2", (1, 1, 0, 0)),
        (ONE, "2", "two", (0, 0, 1, 1)),
        (MANY, "2", "", (0, 0, 0, 0)),
        (ONE, "2", "", (0, 0, 0, 0)),
        (ONE, "0", "0", (1, 1, 1, 1)),
        (ONE, "0", "0.19", (0.7, 0.7, 0.7, 0.7)),
        (ONE, "two", "2", (0, 0, 0, 0)),
        (ONE, "2", "7" * 4301, (0, 0, 0, 0)),
        (ONE, "2", "2, not " + "7" * 400, (1, 1, 0, 0)),
        (MANY, "2", "2, not " + "7" * 400, (0, 0, 0, 0)),
    ],
)
def test_numbers(task: str, answer: str, reply: str, expected: tuple[float, ...]) -> None:
    assert scores(task, answer, reply) == expected


def test_of_several_views_no_number_is_minus_one() -> None:
    graded = RULES["official"].grade(record(MANY, "-1"), "none")
    assert (graded.score, graded.parsed) == (1.0, None)


@pytest.mark.parametrize(
    ("answer", "reply", "expected"),
    [
        ("move_right:1", "move_right:1", (1, 1, 1, 1)),
        ("move_right:1,move_up:0.1", "move_right:1,move_up:0.1", (1, 1, 1, 1)),
        # The lost axis is scored on the absolute size of its true value: 0.1 meets nine of ten.
        ("move_right:1,move_up:0.1", "move_right:1, move_up:0.1", (0.98, 0.98, 1, 1)),
        ("move_right:1,move_up:0.4", "move_right:1, move_up:0.4", (0.86, 0.86, 1, 1)),
        # Half of the true value: 50 % off by the true value, 100 % by the model's.
        ("move_right:1", "move_right:0.5", (0.8, 0.8, 0.82, 0.82)),
        ("move_right:1", "move_left:1", (0.8, 0.8, 0.8, 0.8)),
        ("move_right:1", "I move right: 1", (0.8, 0.8, 0.8, 1)),
        ("move_right:1", "right", (0, 0, 0.8, 0)),
        ("move_right:1", "", (0, 0, 0.8, 0)),
        ("move_right:1", "move_right:nan", (0.8, 0.8, 0.8, 0)),
    ],
)
def test_view_changes(answer: str, reply: str, expected: tuple[float, ...]) -> None:
    assert scores(VIEW, answer, reply) == pytest.approx(expected)


def test_a_task_that_is_unknown_has_no_score() -> None:
    graded = RULES["official"].grade(record("juggling"), "B")
    assert (graded.score, graded.unscored) == (None, "ValueError: unknown task juggling")


def test_sums_and_the_middle_that_forgets_the_view_change() -> None:
    rows = [
        Scored(record(ONE), "", 0.1),
        Scored(record(ONE), "", 0.3),
        Scored(record(VIEW), "", 0.0),
        Scored(record("position_matching"), "", 1.0),
        Scored(record(CHOICE), "", 0.6),
    ]
    each = {
        f"{ONE}_MRA:.5:.95:.05": pytest.approx(0.2),
        "view_change_infer_vci_metric": 0.0,
        "position_matching_accuracy": 1.0,
        f"{CHOICE}_accuracy": 0.6,
        "overall": pytest.approx(0.45),
        "Low": pytest.approx(0.2),
        "High": 0.6,
    }
    percent = pytest.approx(45)
    official = RULES["official"].aggregates(rows)
    assert official == {**each, "Middle": 1.0, "sparbench_score": percent}
    assert RULES["vlmevalkit"].aggregates(rows) == {**each, "Middle": 0.5}
    assert RULES["saner"].aggregates(rows)["Middle"] == 0.5
    assert RULES["lmms_eval"].aggregates(rows) == {
        ONE: pytest.approx(0.2),
        "view_change_infer_vci_metric": 0.0,
        "position_matching_accuracy": 1.0,
        f"{CHOICE}_accuracy": 0.6,
        "low": pytest.approx(0.2),
        "middle": 1.0,
        "high": 0.6,
        "sparbench_score": percent,
    }


@given(
    st.text(max_size=40) | st.text("move_right:,. -0123456789einf", max_size=40),
    st.sampled_from([(CHOICE, "B"), (ONE, "2"), (MANY, "0"), (VIEW, "move_right:1,rotate_up:0.1")]),
    st.sampled_from(NAMES),
)
def test_any_reply_has_a_score(reply: str, asked: tuple[str, str], rule: str) -> None:
    graded = RULES[rule].grade({"task": asked[0], "answer": asked[1]}, reply)
    assert graded.score is not None
    assert 0 <= graded.score <= 1
