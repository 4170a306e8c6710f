"""Scores side by side, and what was forgotten, from items as lmms-eval gives them."""

from __future__ import annotations

import json

import pytest

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.lmms.compare import compared, table
from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.forgetting import forgetting, markdown
from spatialprior.eval.lmms.run import LmmsItem, score_of


def items(scores, task="t", per_video=2, judged=()):
    return [
        LmmsItem(task, k, {"videoID": f"v{k // per_video}", "answer": "A"}, "A", score, k in judged)
        for k, score in enumerate(scores)
    ]


class Letter:
    """1 for the answer; no score for an empty reply."""

    def grade(self, record, reply):
        return (
            Graded(float(reply == record["answer"]), reply)
            if reply
            else Graded(None, None, "judge")
        )

    def aggregates(self, rows):
        return {}


def test_items_that_differ_are_told():
    rows = compared([*items([1.0, 0.0]), LmmsItem("t", 2, {"answer": "A"}, "", None)], Letter())
    assert [row.equal for row in rows] == [True, False, True]
    text = table(rows)
    assert "| t | 3 | 0.5000 | 1.0000 | 1 |" in text and '| t | 1 | 0.0 | 1.0 | "A" |' in text
    assert not compared([LmmsItem("t", 0, {"answer": "A"}, "", 0.0)], Letter())[0].equal


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        (True, 1.0),
        ({"is_correct": False}, 0.0),
        ({"rating": 1, "match_success": False}, 1.0),
        ({"MRA:.5:.95:.05": 0.3, "question_type": "x"}, 0.3),
        ({"question_id": 7}, None),
        ("text", None),
    ],
)
def test_where_tasks_keep_a_score(metric, score):
    assert score_of(metric) == score


def test_a_loss_is_told_from_noise():
    base = items([1.0] * 40)
    lost = forgetting(items([1.0, 0.0] * 20, judged=(1,)), base)["t"]
    assert lost.verdict == "forgot" and lost.difference.mean == -0.5
    assert lost.difference.num_clusters == 20 and lost.judged == (1, 0)
    same = forgetting(base, base)["t"]
    assert same.verdict == "no difference told" and same.difference.mean == 0
    few = forgetting(items([1.0, 0.0]), items([1.0, 1.0]))["t"]
    assert few.verdict == "too few videos to tell" and few.to_dict()["ci95"] is None


def test_documents_without_a_score_are_left_out_and_counted():
    found = forgetting(items([1.0, None, 0.0, 1.0]), items([1.0, 1.0, 0.0, 0.0]))["t"]
    assert found.unscored == 1 and found.difference.n == 3 and found.difference.mean == 1 / 3


def test_several_tasks_have_a_sum_and_a_report():
    export = items([1.0] * 8) + items([0.0] * 8, task="u")
    base = items([1.0] * 8) + items([1.0] * 8, task="u")
    found = forgetting(export, base)
    assert list(found) == ["t", "u", "all"] and found["all"].difference.num_clusters == 8
    json.dumps({name: row.to_dict() for name, row in found.items()})
    text = markdown(found, {"lmms_eval": "0.7.3", "mended": ["x: y"]})
    assert "| u | 8 | 4 | 1.000 | 0.000 | -1.000 | -1.000 to -1.000 | forgot |" in text
    assert "Mended in lmms-eval: x: y." in text


def test_other_documents_are_refused():
    with pytest.raises(LmmsError, match="asked different documents"):
        forgetting(items([1.0]), items([1.0, 0.0]))
