from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.eval.published.mindcube import MindCube, options_of, setting
from spatialprior.eval.published.prompt_texts import PromptError
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored

QUESTION = "What is left of it? A. Chair B. Red table C. Door D. Box"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout: ``raw/*.jsonl`` beside ``other_all_image``."""
    folder = tmp_path / "other_all_image" / "among" / "scene1"
    folder.mkdir(parents=True)
    (tmp_path / "raw").mkdir()
    views = []
    for shade, name in enumerate(("front", "left")):
        Image.new("RGB", (32, 24), (shade * 100, 0, 0)).save(folder / f"{name}.png")
        views.append(f"other_all_image/among/scene1/{name}.png")
    records = [
        {
            "id": f"{kind}_group1_q{i}",
            "category": ["P-P"],
            "type": "what-if",
            "question": QUESTION,
            "images": views,
            "gt_answer": "B",
        }
        for i, kind in enumerate(("among", "around", "rotation"))
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "raw" / "MindCube_tinybench.jsonl").write_text(lines)
    return tmp_path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout" / "src" / "prompt_generation"
    folder.mkdir(parents=True)
    (folder / "templates.py").write_text(
        'import not_there\nRAW_QA_BACKGROUND_INSTRUCTION = """[Task]\nLook.\n"""\n'
        'QUESTION_HEADER = "[Question]\\n"\n'
    )
    return tmp_path / "checkout"


def make(root: Path, **settings) -> MindCube:
    return MindCube(MindCube.Config(root=str(root), **{"check_counts": False, **settings}))


def test_items_show_the_pictures_and_ask_the_official_way(root, checkout):
    items = list(make(root, prompts=str(checkout)).items())
    assert [item.item_id for item in items] == [
        "among_group1_q0",
        "around_group1_q1",
        "rotation_group1_q2",
    ]
    assert [item.question.task for item in items] == ["among", "around", "rotation"]
    first = items[0]
    assert first.question.text == f"[Task]\nLook.\n\n[Question]\n{QUESTION}"
    assert (first.question.answer, first.question.options) == ("B", ("A", "B", "C", "D"))
    assert first.record == {"id": "among_group1_q0", "question": QUESTION, "gt_answer": "B"}
    assert first.clip.source_id == "other_all_image/among/scene1"
    clip = first.clip.load()
    assert clip.images.shape == (2, 3, 24, 32)
    assert clip.images[:, 0, 0, 0].tolist() == [0, 100]


def test_without_a_prompt_it_says_what_to_set(root, tmp_path):
    with pytest.raises(PromptError, match=r"set eval.prompts=FOLDER to a checkout of mll-lab-nu"):
        next(iter(make(root).items()))
    with pytest.raises(PromptError, match=r"has no src/prompt_generation/templates.py"):
        next(iter(make(root, prompts=str(tmp_path)).items()))


def test_a_prompt_in_the_record_needs_no_checkout(root):
    benchmark = make(root)
    record = {"id": "x", "question": "q", "images": ["a.png"], "input_prompt": "<image>\nLook. q"}
    assert benchmark.prompt(record) == "<image>\nLook. q"


@pytest.mark.parametrize(
    ("asked", "text", "shown"),
    [
        ("<image>\n<image> Look.\n", f"{IMAGE_MARK}{IMAGE_MARK}Look.", 2),
        ("One <image> only", f"One{IMAGE_MARK}only", 1),
        ("<image><image><image>q", f"{IMAGE_MARK}{IMAGE_MARK}q", 2),
        ("no mark", "no mark", 2),
    ],
)
def test_the_harnesses_put_views_at_their_marks(root, asked, text, shown):
    benchmark = make(root, protocol="lmms_eval")
    record = {"id": "x", "images": ["f/a.png", "f/b.png"], "input_prompt": asked}
    assert benchmark.prompt(record) == text
    assert len(benchmark.media(record).pictures) == shown


def test_another_number_of_questions_is_refused(root):
    with pytest.raises(RecordsError, match="3 questions, published are 1050"):
        _ = make(root, check_counts=True).records


def test_a_missing_column_is_named(root):
    (root / "raw" / "MindCube_tinybench.jsonl").write_text('{"id": "a", "question": "q"}\n')
    with pytest.raises(RecordsError, match="no column images, gt_answer"):
        _ = make(root).records


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Among_around_1", "around"),
        ("translation_among", "translation"),
        ("rotation_translation", "rotation"),
        ("among", "among"),
        ("x", "other"),
        ("", "other"),
    ],
)
def test_a_setting_is_the_first_that_the_id_contains(name, found):
    assert setting({"id": name}) == found


def test_options_stand_in_the_question():
    assert options_of({"question": QUESTION})["B"] == "Red table"


def test_translation_does_not_count_in_the_official_overall():
    rule = MindCube.rules["official"]
    rows = [
        Scored({"id": name, "gt_answer": "A"}, "", score)
        for name, score in [("around1", 1.0), ("translation1", 1.0), ("among1", 0.0), ("z", 0.0)]
    ]
    rows.append(Scored({"id": "among2", "gt_answer": None}, "", None))  # left out altogether
    sums = rule.aggregates(rows)
    assert sums["gen_cogmap_accuracy"] == pytest.approx(1 / 3)
    assert sums["translation/gen_cogmap_accuracy"] == 1.0
    assert (sums["among/gen_cogmap_accuracy"], sums["rotation/gen_cogmap_accuracy"]) == (0.0, 0.0)


def test_lmms_eval_goes_by_the_first_word_of_the_id():
    rule = MindCube.rules["lmms_eval"]
    rows = [
        Scored({"id": name, "gt_answer": "A"}, "", score)
        for name, score in [("aroundnew_1", 1.0), ("translation_around", 1.0), ("among_1", 0.0)]
    ]
    assert rule.aggregates(rows) == {
        "overall_accuracy": pytest.approx(2 / 3),
        "rotation_accuracy": 0.0,
        "among_accuracy": 0.0,
        "around_accuracy": 1.0,
    }
