"""SQA3D and ScanQA: answers under all their names, sums, and Video-3D-LLM's layout made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spatialprior.data.media import BadMediaError
from spatialprior.eval.metrics import text_metrics
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored
from spatialprior.eval.published.scanqa import ScanQa
from spatialprior.eval.published.sqa3d import Sqa3d, question_type

SQA3D = Sqa3d.rules["official"]
SCANQA = ScanQa.rules["official"]


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


# --- grading ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"gt_response": "the left"},
        {"conversations": turns("<image> ?", "the left")},
        {"answers": [{"answer": "the left"}]},
        {"answers": ["the left"]},
        {"answer": "the left"},
        {"ground_truth": "the left"},
    ],
)
def test_sqa3d_cleans_both_sides_of_an_answer_under_any_name(record: dict[str, Any]) -> None:
    found = [SQA3D.grade(record, reply).score for reply in ("Left.", "letf", "right", "", "the")]
    assert found == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "record",
    [
        {"metadata": {"answers": ["two", "2"]}, "conversations": turns("<image> ?", "two")},
        {"answers": ["two", "2"], "gt_response": "two"},
    ],
)
def test_scanqa_takes_replies_letter_by_letter(record: dict[str, Any]) -> None:
    found = [SCANQA.grade(record, reply).score for reply in ("two", "2", "Two", "two.", " two", "")]
    assert found == [1, 1, 0, 0, 0, 0]
    assert SCANQA.grade({"gt_response": "two"}, "two").score == 1
    assert SCANQA.grade({"answers": "two"}, "tw").score == 0  # no part of a word
    none = {"metadata": {"answers": []}, "conversations": turns("<image> ?", "two")}
    assert SCANQA.grade(none, "two").score == 0  # the list decides, even an empty one


def test_records_without_an_answer_have_no_score() -> None:
    for rule in (SQA3D, SCANQA):
        assert rule.grade({"metadata": None}, "two").unscored.startswith("KeyError")
    assert SQA3D.grade({"gt_response": 2}, "two").unscored.startswith("AttributeError")


@given(
    st.sampled_from([SQA3D, SCANQA]),
    st.sampled_from(["gt_response", "answer", "answers", "conversations", "metadata"]),
    st.one_of(st.text(), st.none(), st.integers(), st.lists(st.text(), max_size=3)),
    st.one_of(st.text(), st.text("the an 0123.'-:")),
)
def test_no_rule_raises(rule: Any, name: str, value: Any, reply: str) -> None:
    if name == "metadata":
        value = {"answers": value}
    if name == "conversations":
        value = turns("?", value)
    graded = rule.grade({name: value}, reply)
    assert (graded.score is None) == (graded.unscored is not None)
    assert graded.score in (None, 0.0, 1.0)


# --- sums ---------------------------------------------------------------------------------


def test_sqa3d_sums_by_the_first_word() -> None:
    rows = [
        Scored({"question_type": "what"}, "", 1.0),
        Scored({"metadata": {"question_type": "what"}}, "", 0.0),
        Scored({"metadata": {"question_type": "how"}}, "", None),
        Scored({"question_type": "others"}, "", 1.0),
    ]
    assert SQA3D.aggregates(rows) == {"all": 50.0, "how": 0.0, "others": 100.0, "what": 50.0}


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (" What is it?", "what"),
        ("is it?", "is"),
        ("How many?", "how"),
        ("Can I?", "can"),
        ("Which side?", "which"),
        ("Island?", "is"),  # first letters, as official has it
        ("Am I?", "others"),
        ("", "others"),
    ],
)
def test_a_type_comes_from_the_question_where_the_record_has_none(question: str, kind: str) -> None:
    assert question_type({"question": question}) == kind


def test_scanqa_sums_go_on_without_text_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "find_spec", lambda name: None)
    rows = [Scored({"answers": ["two"]}, "two", 1.0), Scored({}, "two", None)]
    assert SCANQA.aggregates(rows) == {"EM": 0.5}
    assert "text-metrics" in SCANQA.notes()[0]


def test_scanqa_text_metrics_forgive_the_last_full_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(text_metrics.shutil, "which", lambda name: None)
    record = {"answers": ["on the left side"]}
    found = SCANQA.aggregates([Scored(record, "on the left side.", 0.0)])
    assert found["EM"] == 0 and found["BLEU-4"] == pytest.approx(100)
    assert found["Rouge"] == pytest.approx(100)


# --- the layout ---------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five frames of one scene, numbered by tens, with depth and a pose beside each."""
    frames = tmp_path / "scannet" / "posed_images" / "scene0000_00"
    frames.mkdir(parents=True)
    for index in range(5):
        Image.new("RGB", (16, 8), (50 * index, 0, 0)).save(frames / f"{10 * index:05}.jpg")
        Image.new("I;16", (16, 8)).save(frames / f"{10 * index:05}.png")
        (frames / f"{10 * index:05}.txt").write_text("pose")
    processed = tmp_path / "processed"
    processed.mkdir()
    asked = "I am facing a door. What is left? Answer the question using a single word or phrase."
    one = {
        "id": 220602000037,
        "video": "scannet/scene0000_00",
        "conversations": turns(f"<image> {asked}", "sofa"),
        "metadata": {"dataset": "sqa3d", "question_type": "what"},
    }
    (processed / "sqa3d_test_llava_style.json").write_text(json.dumps([one]))
    other = {
        "id": "scanqa_val-scene0000-0_0",
        "video": "scannet/scene0000_00",
        "conversations": turns("<image> What is left? Answer the question simply.", "sofa"),
        "metadata": {"dataset": "scanQA", "question_type": "unknow", "answers": ["sofa", "couch"]},
    }
    (processed / "scanqa_val_llava_style.json").write_text(json.dumps([other]))
    return tmp_path


@pytest.mark.parametrize("kind", [Sqa3d, ScanQa])
def test_items_read_frames_of_the_scene(root: Path, kind: Any) -> None:
    (item,) = kind(kind.Config(root=str(root), check_counts=False, frames=3)).items()
    clip = item.clip.load()
    assert clip.image_size == (8, 16) and item.clip.num_views == 3
    reds = [int(view[0].float().mean().round()) for view in clip.images]
    assert reds == pytest.approx([0, 100, 200], abs=3)
    graded = kind.rules["official"].grade(item.record, "sofa")  # with the stored columns alone
    assert graded.score == 1


def test_32_frames_of_a_short_scene_repeat_some(root: Path) -> None:
    (item,) = Sqa3d(Sqa3d.Config(root=str(root), check_counts=False)).items()
    assert item.clip.load().num_views == item.clip.num_views == 32


def test_prompts(root: Path) -> None:
    (sqa,) = Sqa3d(Sqa3d.Config(root=str(root), check_counts=False)).items()
    assert sqa.question.text == (
        "I am facing a door. What is left? Answer the question using a single word or phrase."
    )
    assert (sqa.item_id, sqa.question.task, sqa.question.answer) == ("220602000037", "what", "sofa")
    scan = ScanQa(ScanQa.Config(root=str(root), check_counts=False))
    (item,) = scan.items()
    assert item.question.text == "What is left? Answer the question simply."
    assert ScanQa.spec.protocols["official"].max_new_tokens == scan.max_new_tokens == 512


def test_other_data_is_refused(root: Path) -> None:
    with pytest.raises(RecordsError, match="1 questions, published are 3519"):
        _ = Sqa3d(Sqa3d.Config(root=str(root))).records
    with pytest.raises(RecordsError, match="1 questions, published are 4675"):
        _ = ScanQa(ScanQa.Config(root=str(root))).records
    (root / "scannet" / "posed_images" / "scene0000_00").rename(root / "elsewhere")
    (item,) = Sqa3d(Sqa3d.Config(root=str(root), check_counts=False)).items()
    with pytest.raises(BadMediaError, match="no such file"):
        item.clip.load()
