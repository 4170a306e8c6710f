from __future__ import annotations

import json
from pathlib import Path

import pytest

from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored
from spatialprior.eval.published.sti_bench import StiBench, options_of, scene_of

CANDIDATES = {"A": "1 m", "B": "2 m", "C": "3 m", "D": "4 m", "E": "5 m"}
RECORD = {
    "Video": "scene0011.mp4",
    "ID": 3,
    "Task": "Dimensional Measurement",
    "Question": "How long is it?",
    "Candidates": json.dumps(CANDIDATES),
    "Answer": "B",
    "time_start": 0.0,
    "time_end": 4,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout: a Parquet file beside the folder of videos."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.Table.from_pylist([RECORD, {**RECORD, "ID": 4, "Answer": "C"}])
    parquet.write_table(table, tmp_path / "qa.parquet")
    return tmp_path


def make(root: Path, **settings) -> StiBench:
    return StiBench(StiBench.Config(root=str(root), **{"check_counts": False, **settings}))


def test_items_show_the_whole_video_and_ask_about_a_span(root, make_video, shown_number):
    (root / "video").mkdir()
    make_video(root / "video" / "scene0011.mp4", length=60)
    items = list(make(root).items())
    assert [item.item_id for item in items] == ["0", "1"]
    assert items[0].question.text == (
        "From 0.0 s to 4 s. How long is it?\n(A) 1 m\n(B) 2 m\n(C) 3 m\n(D) 4 m\n(E) 5 m\n"
        "Please output only the option letter!"
    )
    assert (items[0].question.answer, items[0].question.options) == ("B", tuple("ABCDE"))
    clip = items[0].clip.load()
    assert clip.num_views == 30
    assert (shown_number(clip.images[0]), shown_number(clip.images[-1])) == (0, 59)


def test_counts_and_columns_are_checked(root):
    with pytest.raises(RecordsError, match="2 questions, published are 2064"):
        _ = make(root, check_counts=True).records
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([{"Video": "a.mp4"}]), root / "qa.parquet")
    with pytest.raises(RecordsError, match="no column ID, Task"):
        _ = make(root).records


@pytest.mark.parametrize(
    ("candidates", "found"),
    [(CANDIDATES, CANDIDATES), (json.dumps(CANDIDATES), CANDIDATES), ("{", {}), (None, {})],
)
def test_candidates_as_a_mapping_or_as_json(candidates, found):
    assert options_of({"Candidates": candidates}) == found


@pytest.mark.parametrize(
    ("record", "scene"),
    [
        ({"Video": "camera_1.mp4"}, "outdoor"),
        ({"Video": "scene_1.mp4"}, "indoor"),
        ({"Video": "000123.mp4"}, "desktop"),
        ({"Video": "0001234.mp4"}, "unknown"),
        ({"Video": "scene_1.mp4", "scene": None, "Scene": "desktop"}, "desktop"),
    ],
)
def test_scenes(record, scene):
    assert scene_of(record) == scene


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("B", 1.0),
        ("(b)", 1.0),
        ("it is B", 1.0),
        ("it is b", 0.0),
        ("Answer: Because", 1.0),
        ("B, clearly", 0.0),
        ("(A) or B", 0.0),
    ],
)
def test_the_official_score(reply, score):
    assert StiBench.rules["official"].grade(RECORD, reply).score == score


@pytest.mark.parametrize("reply", ["", " \n\t"])
def test_a_blank_reply_stops_the_official_code(reply):
    graded = StiBench.rules["official"].grade(RECORD, reply)
    assert graded.score is None
    assert graded.unscored.startswith("IndexError")
    assert StiBench.rules["saner"].grade(RECORD, reply).score == 0.0


def test_sums_by_task_and_scene():
    rows = [Scored(RECORD, "", 1.0), Scored({**RECORD, "Video": "000001.mp4"}, "", 0.0)]
    assert StiBench.rules["official"].aggregates(rows) == {
        "Overall accuracy": 0.5,
        "Accuracy by task: Dimensional Measurement": 0.5,
        "Accuracy by scene: indoor": 1.0,
        "Accuracy by scene: desktop": 0.0,
    }
