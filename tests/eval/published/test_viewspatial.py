from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored
from spatialprior.eval.published.viewspatial import TYPES, ViewSpatial, options_of

CHOICES = "A. right\nB. front-up\nC. back-left\nD. front"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The hub's layout: paths name the folder that the file lies in."""
    views = [f"scannetv2_val/scene0011_00/original_images/{k}.jpg" for k in (0, 20)]
    for view in views:
        (tmp_path / view).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), "green").save(tmp_path / view)
    records = [
        {
            "question_type": kind,
            "image_path": [f"ViewSpatial-Bench/{view}" for view in views[: 1 + (kind == TYPES[4])]],
            "question": "Where is the door?",
            "answer": "D. front",
            "choices": CHOICES,
        }
        for kind in TYPES
    ]
    (tmp_path / "ViewSpatial-Bench.json").write_text(json.dumps(records))
    return tmp_path


def make(root: Path, **settings) -> ViewSpatial:
    return ViewSpatial(ViewSpatial.Config(root=str(root), **{"check_counts": False, **settings}))


def test_items_force_the_size_and_ask_without_a_separator(root):
    items = list(make(root).items())
    assert sorted(item.item_id for item in items) == ["0", "1", "2", "3", "4"]
    by_task = {item.question.task: item for item in items}
    assert set(by_task) == set(TYPES)
    item = by_task[TYPES[4]]
    assert item.question.text == (
        f"Where is the door?{CHOICES}\nReply only to the corresponding option.\nAnswer:"
    )
    assert (item.question.answer, item.question.options) == (
        "D. front",
        tuple(CHOICES.split("\n")),
    )
    assert item.clip.source_id == "scannetv2_val/scene0011_00"
    assert item.clip.load().images.shape == (2, 3, 280, 420)
    assert TYPES[4] in ViewSpatial.multi_view


@pytest.mark.parametrize("protocol", ["lmms_eval", "vlmevalkit"])
def test_the_harnesses_name_question_and_choices(root, protocol):
    item = next(iter(make(root, protocol=protocol).items()))
    assert item.question.text == (
        f"Question: Where is the door?\nChoices: {CHOICES}\n"
        "Reply only to the corresponding option.\nAnswer:"
    )
    assert item.clip.load().images.shape[-2:] == (48, 64)


def test_the_folder_may_also_lie_below(root):
    (root / "ViewSpatial-Bench").mkdir()
    (root / "scannetv2_val").rename(root / "ViewSpatial-Bench" / "scannetv2_val")
    assert next(iter(make(root).items())).clip.load().num_views == 1


def test_counts_and_columns_are_checked(root):
    with pytest.raises(RecordsError, match="5 questions, published are 5712"):
        _ = make(root, check_counts=True).records
    (root / "ViewSpatial-Bench.json").write_text('[{"question": "q"}]')
    with pytest.raises(RecordsError, match="no column question_type"):
        _ = make(root).records


@pytest.mark.parametrize("choices", [CHOICES, CHOICES.split("\n"), json.dumps(CHOICES.split("\n"))])
def test_choices_as_lines_or_a_list(choices):
    assert options_of({"choices": choices})["C"] == "back-left"


@pytest.mark.parametrize(
    ("answer", "reply", "score"),
    [
        ("D. front", "D", 1.0),
        ("D. front", "I'd say so", 1.0),
        ("D. front", "D\n", 0.0),
        ("A. right", "a door", 1.0),
        ("A. right", "B\nthen A", 1.0),
        ("right", "nothing", 1.0),  # neither has a letter, so they are equal
    ],
)
def test_the_official_score(answer, reply, score):
    record = {"question_type": TYPES[0], "answer": answer, "choices": CHOICES}
    assert ViewSpatial.rules["official"].grade(record, reply).score == score


@pytest.mark.parametrize("record", [{"answer": None}, {}])
def test_without_an_answer_the_official_code_stops(record):
    graded = ViewSpatial.rules["official"].grade({"question_type": TYPES[0], **record}, "nothing")
    assert graded.score is None and graded.unscored


def test_sums_by_type():
    rows = [
        Scored({"question_type": kind}, "", score)
        for kind, score in [(TYPES[0], 1.0), (TYPES[0], 0.0), (TYPES[1], 1.0)]
    ]
    sums = ViewSpatial.rules["official"].aggregates(rows)
    assert sums == {"overall_accuracy": pytest.approx(2 / 3), TYPES[0]: 0.5, TYPES[1]: 1.0}
    lmms = ViewSpatial.rules["lmms_eval"].aggregates(rows)
    assert lmms["camera_perspective_relative_direction_accuracy"] == 0.5
    assert lmms["person_perspective_scene_simulation_relative_direction_accuracy"] == 0.0
    assert len(lmms) == 6
