from __future__ import annotations

import hashlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from spatialprior.eval.published import omnispatial_prompts
from spatialprior.eval.published.omnispatial import OmniSpatial
from spatialprior.eval.published.omnispatial_prompts import DIGESTS, prefix
from spatialprior.eval.published.prompt_texts import PromptError
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored

TEXTS = '''
import not_there
RE_FORMAT = """
End: X
"""
DIRECT_FORMAT = """
Only a letter.
"""
DEFAULT_SYSTEM_PROMPT = """
You will receive
1. **Image** - one.
"""
MANUAL_COT_SYSTEM_PROMPT = """
You will receive
1. **Image** - one.
2. **Question** - one.
3. **Options** - some.
3. Think through the spatial reasoning.
"""
'''
SPACED = (
    "\nYou will receive  \n1. **Image** - one.  \n2. **Question** - one.  \n3. **Options** - some.\n"
    "3. Think through the spatial reasoning.\n\n\nEnd: X\n\n\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout: ``data.json`` beside folders of tasks; ids repeat between tasks."""
    records = []
    for task, kind in (
        ("Complex_Logic", "Pattern_Recognition"),
        ("Dynamic_Reasoning", "Manipulation"),
    ):
        (tmp_path / task).mkdir()
        Image.new("RGB", (20, 10), "blue").save(tmp_path / task / "7.png")
        records.append(
            {
                "id": "7_0",
                "question": "Which?",
                "options": ["left", "right"],
                "answer": 1,
                "task_type": task,
                "sub_task_type": kind,
            }
        )
    (tmp_path / "data.json").write_text(json.dumps(records))
    return tmp_path


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An official checkout and an installed lmms-eval, both with short texts."""
    checkout = tmp_path / "checkout" / "vlms_eval"
    checkout.mkdir(parents=True)
    spaced = TEXTS.replace("receive\n", "receive  \n").replace("one.\n", "one.  \n")
    (checkout / "system_prompts.py").write_text(spaced)
    package = tmp_path / "site" / "lmms_eval"
    for task in ("omnispatial", "omni_spatial"):
        (package / "tasks" / task).mkdir(parents=True)
        (package / "tasks" / task / "utils.py").write_text(TEXTS)
    (package / "__init__.py").write_text("raise ImportError('must not be run')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "lmms_eval", raising=False)
    digest = hashlib.sha256(SPACED.encode()).hexdigest()
    monkeypatch.setitem(DIGESTS, "official_manual_cot", digest)
    return tmp_path / "checkout"


def make(root: Path, **settings) -> OmniSpatial:
    return OmniSpatial(OmniSpatial.Config(root=str(root), **{"check_counts": False, **settings}))


@pytest.mark.parametrize("with_checkout", [False, True])
def test_items_ask_the_official_way_from_either_source(root, texts, with_checkout):
    items = list(make(root, prompts=str(texts) if with_checkout else None).items())
    assert [item.item_id for item in items] == ["Complex_Logic/7_0", "Dynamic_Reasoning/7_0"]
    assert items[0].question.text == f"{SPACED}Which?\nA. left\nB. right"
    assert (items[0].question.answer, items[0].question.options) == ("B", ("A", "B"))
    assert [item.question.task for item in items] == ["Pattern_Recognition", "Manipulation"]
    assert items[0].clip.load().images.shape == (1, 3, 10, 20)


def test_ids_stay_as_they_are_where_they_tell_questions_apart(root):
    records = json.loads((root / "data.json").read_text())
    records[1]["id"] = "7_1"
    (root / "data.json").write_text(json.dumps(records))
    assert [name for name, _ in make(root).records] == ["7_0", "7_1"]


def test_the_texts_of_the_other_protocols(texts, monkeypatch):
    plain = SPACED.replace("  \n", "\n")
    stray = plain.replace("reasoning.\n", "reasoning.   # noqa: E501\n")
    direct = "\nYou will receive\n1. **Image** - one.\n\nOnly a letter.\n\n"
    none = "\nYou will receive  \n1. **Image** - one.  \n\n\nOnly a letter.\n\n\n"
    for name, text in (
        ("lmms_manual_cot", plain),
        ("vlmevalkit_manual_cot", stray),
        ("lmms_direct", direct),
        ("official_none", none),
    ):
        monkeypatch.setitem(DIGESTS, name, hashlib.sha256(text.encode()).hexdigest())
        assert prefix(name, None) == text


def test_another_version_of_the_text_is_refused(texts):
    with pytest.raises(PromptError, match="holds another version of the prompt lmms_manual_cot"):
        prefix("lmms_manual_cot", None)


def test_without_any_source_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("spatialprior.eval.published.prompt_texts.find_spec", lambda name: None)
    with pytest.raises(PromptError, match=r"pip install lmms-eval==0\.7\.3"):
        prefix("official_manual_cot", None)
    with pytest.raises(PromptError, match="must be a checkout of qizekun/OmniSpatial"):
        prefix("official_manual_cot", str(tmp_path))


@pytest.mark.skipif(find_spec("lmms_eval") is None, reason="needs lmms-eval 0.7.3")
@pytest.mark.parametrize("name", omnispatial_prompts.DIGESTS)
def test_the_installed_lmms_eval_gives_every_prompt(name):
    assert prefix(name, None).endswith("\n")  # the digest was compared inside


def test_counts_and_columns_are_checked(root):
    with pytest.raises(RecordsError, match="2 questions, published are 1533"):
        _ = make(root, check_counts=True).records
    (root / "data.json").write_text('[{"id": "1_0", "question": "q"}]')
    with pytest.raises(RecordsError, match="no column options, answer"):
        _ = make(root).records


def record(answer, task="Complex_Logic", kind="Pattern_Recognition"):
    return {"options": ["a", "b"], "answer": answer, "task_type": task, "sub_task_type": kind}


def test_a_reply_without_an_answer_line_is_taken_for_a():
    rule = OmniSpatial.rules["official"]
    graded = rule.grade(record(0), "I do not know")
    assert (graded.score, graded.parsed) == (1.0, None)
    assert rule.grade(record(1), "Answer: B\nAnswer: b").score == 0.0
    assert OmniSpatial.rules["official_direct"].grade(record(0), "").score == 0.0
    assert OmniSpatial.rules["official_json"].grade(record(0), "{").score == 1.0
    assert OmniSpatial.rules["official_json"].grade(record(0), '{"answer": ""}').score == 0.0


def test_an_answer_that_is_no_number_stops_the_official_code():
    graded = OmniSpatial.rules["official"].grade(record("1"), "Answer: B")
    assert graded.score is None
    assert graded.unscored.startswith("TypeError")


def test_percentages_are_of_n_and_a_millionth():
    rows = [
        Scored(record(0), "", 1.0),
        Scored(record(0, "Perspective_Taking", "Egocentric"), "", 0.0),
    ]
    sums = OmniSpatial.rules["official"].aggregates(rows)
    assert sums["Overall"] == pytest.approx(100 / (2 + 1e-6), abs=1e-12)
    assert sums["Complex_Logic"] == sums["Pattern_Recognition"] == pytest.approx(100 / (1 + 1e-6))
    assert sums["Egocentric"] == sums["Manipulation"] == 0.0
    assert len(sums) == 1 + 4 + 10
