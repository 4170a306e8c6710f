"""A benchmark from outside: found by name, scored through the door, its data checked."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from spatialprior_example.which_side import WhichSide

from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.score import main
from spatialprior.registry import BENCHMARKS
from spatialprior.run.compose import compose_run

RECORDS = [
    {
        "id": name,
        "task": "side",
        "image": "a.png",
        "question": "Which side is the dark half on?",
        "A": "left",
        "B": "right",
        "answer": "A",
    }
    for name in ("one", "two")
]


@pytest.fixture
def root(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return tmp_path


def test_installed_it_is_found_by_name_and_asks(root):
    assert BENCHMARKS.get("which_side") is WhichSide
    run = compose_run(["recipe=sft_qwen", "eval=which_side", f"eval.root={root}"])
    items = list(run.eval.cls(run.eval.settings).items())
    assert [item.item_id for item in items] == ["one", "two"]
    assert items[0].clip.load().images.shape == (1, 3, 8, 8)
    assert items[0].question.options == ("left", "right")


@pytest.mark.parametrize(("rule", "scores"), [("official", [1.0, 0.0]), ("saner", [1.0, 1.0])])
def test_the_door_scores_it(root, rule, scores):
    replies = [{"id": "one", "reply": "a"}, {"id": "two", "reply": "The answer is A."}]
    (root / "replies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in replies))
    paths = {"records": "test.jsonl", "replies": "replies.jsonl", "out": "scores.jsonl"}
    argv = [word for name, file in paths.items() for word in (f"--{name}", str(root / file))]
    assert main(["--benchmark", "which_side", "--rule", rule, *argv]) == 0
    lines = (root / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["score"] for line in lines] == scores


def test_another_number_of_questions_is_refused(root):
    (root / "test.jsonl").write_text(json.dumps(RECORDS[0]) + "\n")
    with pytest.raises(RecordsError, match="1 questions, published are 2"):
        list(WhichSide(WhichSide.Config(root=str(root))).items())
