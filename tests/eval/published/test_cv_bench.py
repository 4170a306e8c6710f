"""CV-Bench: prompts, the parsers of two code bases, sums by source, and a layout made here."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spatialprior.eval.published.cv_bench import CvBench
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored

RULES = CvBench.rules


def record(source: str = "COCO", answer: Any = "(B)", **more: Any) -> dict[str, Any]:
    flat = source != "Omni3D"
    return {
        "type": "2D" if flat else "3D",
        "task": "Relation" if flat else "Depth",
        "choices": ["left", "right"],
        "answer": answer,
        "source": source,
        **more,
    }


@pytest.mark.parametrize(
    ("reply", "official", "lmms_eval", "saner"),
    [
        ("B", 1, 1, 1),
        ("(B)", 1, 1, 1),
        ("(B) right", 1, 1, 1),
        ("b.", 1, 1, 1),
        ("The answer is B", 1, 0, 1),
        ("The answer is: B", 0, 0, 1),
        ("Answer: (B).", 1, 0, 1),
        ("Because", 1, 1, 0),
        ("**B**", 0, 0, 1),
        ("right", 0, 0, 1),
        ("A", 0, 0, 0),
        ("", 0, 0, 0),
        (" \n", 0, 0, 0),
    ],
)
@pytest.mark.parametrize("source", ["ADE20K", "COCO", "Omni3D"])
def test_replies(source: str, reply: str, official: float, lmms_eval: float, saner: float) -> None:
    found = {name: rule.grade(record(source), reply).score for name, rule in RULES.items()}
    assert found == {"official": official, "lmms_eval": lmms_eval, "saner": saner}


def test_in_3d_a_text_of_one_character_counts() -> None:
    choices = {"choices": ["a", "7"]}
    assert RULES["official"].grade(record("Omni3D", **choices), "7 of them").score == 1
    assert RULES["official"].grade(record("COCO", **choices), "7 of them").score == 0
    by_type = {**record("SUNRGBD", **choices), "type": "3D"}  # the source is none of the three
    assert RULES["official"].grade(by_type, "7 of them").score == 1


def test_a_crash_of_the_official_code_is_no_score() -> None:
    official = RULES["official"]
    assert official.grade(record(answer="B"), "B").unscored.startswith("IndexError")
    assert official.grade(record("Omni3D", answer="(C)"), "C").unscored.startswith("IndexError")
    assert official.grade(record("COCO", answer="(C)"), "C").score == 1  # no options are read there
    assert official.grade(record(answer=None), "B").unscored.startswith("AttributeError")


def test_sums_by_source() -> None:
    rows = [
        *[Scored(record("ADE20K"), "", score) for score in (1.0, 1.0, 1.0, 0.0)],
        *[Scored(record("COCO"), "", score) for score in (0.0, 0.5)],
        Scored(record("Omni3D"), "", 1.0),
    ]
    assert RULES["official"].aggregates(rows) == {
        "accuracy_2d_ade": 0.75,
        "accuracy_2d_coco": 0.25,
        "accuracy_3d_omni": 1.0,
        "accuracy_2d": 0.5,
        "accuracy_3d": 1.0,
        "combined_accuracy": 0.75,
    }
    assert RULES["lmms_eval"].aggregates(rows) == {"cv_bench_acc": 4.5 / 7}
    assert set(RULES["official"].aggregates(rows[-1:])) == {"accuracy_3d_omni", "accuracy_3d"}


@given(
    st.sampled_from(sorted(RULES)),
    st.sampled_from(["ADE20K", "COCO", "Omni3D", "?"]),
    st.one_of(st.sampled_from(["(A)", "(B)", "A", "", None, 3]), st.text(max_size=4)),
    st.one_of(st.text(), st.text("ABab ().:answer is\n")),
)
def test_no_rule_raises(name: str, source: str, answer: Any, reply: str) -> None:
    graded = RULES[name].grade(record(source, answer), reply)
    assert (graded.score is None) == (graded.unscored is not None)
    assert graded.score in (None, 0.0, 1.0)


# --- the official layout ------------------------------------------------------------------


def picture(size: tuple[int, int]) -> dict[str, Any]:
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name, source, size in (("2d", "COCO", (8, 6)), ("3d", "Omni3D", (4, 4))):
        one = record(
            source,
            idx=0,
            image=picture(size),
            question="Where?",
            prompt="Where? Select from the following choices.\n(A) left\n(B) right",
            filename=f"img/{name}/0.png",
            source_filename="7.jpg",
        )
        parquet.write_table(arrow.Table.from_pylist([one]), tmp_path / f"test_{name}.parquet")
    return tmp_path


def bench(root: Path, **settings: Any) -> CvBench:
    return CvBench(CvBench.Config(root=str(root), check_counts=False, **settings))


def test_both_files_make_the_default_split(root: Path) -> None:
    items = list(bench(root).items())
    assert [item.item_id for item in items] == ["0", "1"]
    assert [item.question.task for item in items] == ["Relation", "Depth"]
    assert [item.clip.load().image_size for item in items] == [(6, 8), (4, 4)]
    assert items[0].clip.source_id == "COCO/7.jpg"
    assert items[0].record == {
        "type": "2D",
        "choices": ["left", "right"],
        "answer": "(B)",
        "source": "COCO",
    }
    assert [item.question.task for item in bench(root, split="3D").items()] == ["Depth"]


def test_pictures_may_lie_beside_the_records(root: Path) -> None:
    asked = bench(root)
    bare = {**record(), "filename": "img/0.png", "prompt": "?"}
    assert asked.media(bare).pictures == ("img/0.png",)


def test_prompts(root: Path) -> None:
    prompt = "Where? Select from the following choices.\n(A) left\n(B) right"
    assert next(bench(root).items()).question.text == (
        f"{prompt}\nAnswer with the option's letter from the given choices directly."
    )
    assert next(bench(root, protocol="lmms_eval").items()).question.text == (
        "Note: You only need to respond with A, B without providing any additional information.\n"
        f"\n{prompt}"
    )


def test_other_data_is_refused(root: Path) -> None:
    with pytest.raises(RecordsError, match="2 questions, published are 2638"):
        _ = CvBench(CvBench.Config(root=str(root))).records
