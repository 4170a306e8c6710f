"""Differences, McNemar and Holm against closed forms."""

from __future__ import annotations

from math import comb

import pytest

from spatialprior.eval.ablation.paired import McNemar, compare, holm, paired


def rows(scores, task="t", **more):
    return [
        {
            "id": str(i), "score": s, "correct": s == 1, "source_id": f"room{i // 2}", "task": task,
            "chance": 0.5, "parsed": "a" if s is not None else None, **more,
        }
        for i, s in enumerate(scores)
    ]  # fmt: skip


@pytest.mark.parametrize("b", range(0, 9))
@pytest.mark.parametrize("c", [0, 1, 4, 8])
def test_mcnemar_is_the_exact_binomial(b, c):
    n = b + c
    tail = sum(comb(n, k) for k in range(min(b, c) + 1)) / 2**n
    assert McNemar(b, c).p == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_known_values():
    assert McNemar(0, 0).p == 1.0
    assert McNemar(5, 0).p == pytest.approx(2 / 32)
    assert McNemar(1, 8).p == pytest.approx(2 * 10 / 512)


def test_discordant_pairs_and_the_difference():
    found = paired(rows([1, 1, 1, 0, 0, 1]), rows([1, 0, 0, 1, 0, 0])).to_dict()
    assert (found["whole"], found["score"]) == (pytest.approx(4 / 6), pytest.approx(2 / 6))
    assert found["difference"] == pytest.approx(2 / 6) and found["n"] == 6
    assert found["clusters"] == 3 and found["ci95"][0] <= 2 / 6 <= found["ci95"][1]
    assert (found["mcnemar"]["only_whole"], found["mcnemar"]["only_ablated"]) == (3, 1)
    assert found["mcnemar"]["p"] == pytest.approx(2 * 5 / 16) and not found["graded"]


def test_items_without_a_score_count_as_wrong():
    found = paired(rows([1, None, 1, 0]), rows([0, 1, None, 0])[:3])
    assert (found.difference.n, found.difference.mean) == (3, pytest.approx(1 / 3))
    assert found.mcnemar == McNemar(2, 1) and (found.unreadable, found.unreadable_whole) == (1, 1)
    unread = paired(rows([0, 0], error="OSError", parsed=None), rows([1, 0]))
    assert unread.mcnemar == McNemar(0, 1) and unread.difference.mean == -0.5
    assert (unread.failed, unread.unreadable_whole) == (2, 0)


def test_graded_scores_are_said_to_be():
    found = paired(rows([0.5, 1.0]), rows([0.25, 0.5]))
    assert found.graded and found.mcnemar == McNemar(1, 0)
    assert found.difference.mean == pytest.approx(0.375)
    assert paired(rows([1.0]), rows([0.0]), "lower").mcnemar is None


def test_replies_that_are_no_option_are_counted():
    found = paired(rows([1, 1, 0]), rows([0, 0, 0], parsed=None))
    assert found.unreadable == 3 and found.unreadable_whole == 0 and found.chance == 0.5


def test_nothing_in_common_is_no_number():
    found = paired(rows([1]), []).to_dict()
    assert found["n"] == 0 and found["ci95"] is None and found["mcnemar"]["p"] == 1.0


def test_holm():
    # Holm's own recipe: times 4, 3, 2, 1 from the smallest on, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_compare_adjusts_over_ablations_and_over_tasks():
    whole = rows([1] * 6) + [dict(row, id="b" + row["id"]) for row in rows([1] * 6, "u")]
    gone = [dict(row, score=0, correct=False) for row in whole]
    found = compare(whole, {"blind": gone, "single_frame": whole})
    assert found["blind"]["mcnemar"]["p_holm"] == pytest.approx(2 * 2 / 2**12)
    assert found["single_frame"]["difference"] == 0 == found["single_frame"]["ci95"][1]
    assert list(found["blind"]["tasks"]) == ["t", "u"]
    task = found["blind"]["tasks"]["t"]
    assert task["n"] == 6 and task["mcnemar"]["p_holm"] == pytest.approx(4 * 2 / 2**6)
    assert compare(whole, {}) == {}
