"""BLINK: fourteen folders of pictures inside tables, three prompts, four rules."""

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

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.benchmark import LazyViews
from spatialprior.eval.published.blink import SPATIAL, Blink
from spatialprior.eval.published.prompt_texts import PromptError
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored

RULES = Blink.rules


def picture(grey: int) -> dict[str, Any]:
    held = io.BytesIO()
    Image.new("RGB", (6, 4), (grey,) * 3).save(held, "PNG")
    return {"bytes": held.getvalue(), "path": None}


def record(task: str = "Relative_Depth", number: int = 1, **changes: Any) -> dict[str, Any]:
    images = {"image_1": picture(10), "image_2": picture(20), "image_3": None, "image_4": None}
    text = {"question": "Closer?", "prompt": "Closer?\n(A) left\n(B) right"}
    asked = {"idx": f"val_{task}_{number}", "sub_task": task, **text, "choices": ["left", "right"]}
    return {**asked, "answer": "(B)", **images, **changes}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blink")
    for task in (*SPATIAL, "Jigsaw"):
        (folder / task).mkdir()
        table = pa.Table.from_pylist([record(task, number) for number in (1, 2)])
        parquet.write_table(table, folder / task / "val-00000-of-00001.parquet")
        parquet.write_table(table, folder / task / "test-00000-of-00001.parquet")
    return folder


def benchmark(root: Path, **settings: Any) -> Blink:
    return Blink(Blink.Config(root=str(root), check_counts=False, **settings))


def test_every_sub_task_is_read_and_its_pictures_are_within(root: Path) -> None:
    asked = benchmark(root, tasks=SPATIAL)
    assert set(asked.tasks) == set(SPATIAL)
    items = list(asked.items())
    assert len(items) == len({item.item_id for item in items}) == 6
    views = items[0].clip
    assert isinstance(views, LazyViews)
    assert views.num_views == 2
    clip = views.load()
    assert isinstance(clip, MultiViewClip)
    assert [int(view[0, 0, 0]) for view in clip.images] == [10, 20]
    assert set(items[0].record) == {"idx", "sub_task", "choices", "answer"}
    assert items[0].question.options == ("(A) left", "(B) right")


def test_folders_that_datasets_saved_are_read_too(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for task in SPATIAL:
        columns = datasets.Dataset.from_list([record(task)])
        for name in ("image_1", "image_2"):
            columns = columns.cast_column(name, datasets.Image())
        datasets.DatasetDict({"val": columns}).save_to_disk(str(tmp_path / task))
    items = list(benchmark(tmp_path).items())
    assert {item.question.task for item in items} == set(SPATIAL)
    assert isinstance(items[0].clip, LazyViews)
    assert items[0].clip.load().num_views == 2


def test_a_missing_sub_task_is_noticed(root: Path) -> None:
    with pytest.raises(RecordsError, match="8 questions, published are 1901"):
        _ = Blink(Blink.Config(root=str(root))).records


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "Jigsaw").mkdir()
    table = pa.Table.from_pylist([record()]).drop_columns(["choices"])
    parquet.write_table(table, tmp_path / "Jigsaw/val-0.parquet")
    with pytest.raises(RecordsError, match="no column choices"):
        _ = benchmark(tmp_path).records


@pytest.mark.parametrize(
    ("protocol", "text"),
    [
        ("official", "Closer?\n(A) left\n(B) right"),
        (
            "lmms_eval",
            "Note: You only need to respond with A, B without providing any additional information.\n"
            "Closer?\n(A) left\n(B) right",
        ),
        (
            "vlmevalkit",
            "Question: Closer?\nOptions:\nA. left\nB. right\n"
            "Please select the correct answer from the options above. \n",
        ),
    ],
)
def test_prompts(root: Path, protocol: str, text: str) -> None:
    assert benchmark(root, protocol=protocol).prompt(record()) == text


def test_the_disclaimer_is_read_from_the_official_code(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"set eval\.prompts=CHECKOUT"):
        _ = benchmark(root).records
    (tmp_path / "eval").mkdir()
    code = tmp_path / "eval/test_benchmark.py"
    code.write_text('import nothing_like_it\ndisclaimer = "Be fair.\\n\\n",\n')
    asked = benchmark(root, prompts=str(tmp_path))
    assert len(asked.records) == 8
    assert asked.prompt(record("Jigsaw")).startswith("Be fair.\n\nCloser?")
    assert asked.prompt(record("Counting")).startswith("Closer?")
    code.write_text("other = 1\n")
    with pytest.raises(PromptError, match="has no text disclaimer"):
        _ = benchmark(root, prompts=str(tmp_path)).records


def test_leaving_the_disclaimer_out_is_said(root: Path) -> None:
    asked = benchmark(root, disclaimer=False)
    assert asked.prompt(record("Jigsaw")).startswith("Closer?")
    assert any(each.startswith("no disclaimer") for each in asked.protocol["deviations"])
    other = benchmark(root, protocol="lmms_eval")
    assert len(other.records) == 8
    assert not any("disclaimer" in each for each in other.protocol["deviations"])


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("B", (1, 1, 1, 1)),
        ("(B)", (1, 1, 1, 1)),
        ("(A)", (0, 0, 0, 0)),
        ("E", (0, 0, None, 0)),
        ("B.", (None, 1, 1, 1)),
        ("**(B)**", (None, 1, 1, 1)),
        ("(B) right", (1, 1, 1, 1)),
        ("(A) or (B)\n\n(B)", (1, 1, None, 0)),
        ("it is the right one", (None, 0, None, 1)),
        ("right", (None, 0, 1, 1)),
        ("", (None, 0, None, 0)),
    ],
)
def test_scores(reply: str, scores: tuple[float | None, ...]) -> None:
    rules = ("official", "lmms_eval", "vlmevalkit", "saner")
    assert tuple(RULES[name].grade(record(), reply).score for name in rules) == scores


def test_the_official_code_fails_silently_on_more_choices_than_it_knows() -> None:
    six = record(choices=list("uvwxyz"))
    assert RULES["official"].grade(six, "hm").score == 0.0
    assert RULES["official"].grade(six, "(B)").score == 1.0


def test_sums() -> None:
    rows = [
        Scored(record("Counting"), "", 1.0),
        Scored(record("Counting"), "", 0.0),
        Scored(record("Counting"), "", None),
        Scored(record("Counting"), "", 1.0),
        Scored(record("Multi-view_Reasoning"), "", 1.0),
    ]
    each = {"Counting": 0.5, "Multi-view_Reasoning": 1.0}
    assert RULES["official"].aggregates(rows) == {**each, "Total": 0.75}
    assert RULES["saner"].aggregates(rows)["Total"] == 0.75
    assert RULES["vlmevalkit"].aggregates(rows) == {**each, "Overall": 0.6}
    assert RULES["lmms_eval"].aggregates(rows) == {
        "blink_counting": 0.5,
        "blink_multi_view_reasoning": 1.0,
        "blink": 0.75,
    }


def test_the_sub_task_is_in_the_name_where_its_column_is_missing(root: Path) -> None:
    bare = record("Multi-view_Reasoning")
    del bare["sub_task"]
    assert benchmark(root).task(bare) == "Multi-view_Reasoning"


@given(st.text(), st.sampled_from(sorted(RULES)))
def test_any_reply_is_right_wrong_or_for_the_judge(reply: str, rule: str) -> None:
    graded = RULES[rule].grade({"choices": ["a", "b"], "answer": "(A)"}, reply)
    assert graded.score in (0.0, 1.0) or (graded.score, graded.unscored) == (None, "judge")
