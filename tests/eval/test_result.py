"""Figures of the whole: sums with intervals over scenes, what has no score, grading stored rows again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_material import Album, Quick, score

from spatialprior.core.intervals import clustered_interval
from spatialprior.eval.aggregates import aggregates_of
from spatialprior.eval.benchmark import Graded, Item
from spatialprior.eval.evaluator import EvalResult, reply_folder
from spatialprior.eval.failures import EvaluationError
from spatialprior.eval.replies import read_replies
from spatialprior.eval.result import rescore
from spatialprior.eval.rows import regrade


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvalResult:
    return score(Album(clips=12, broken=(3,)), tmp_path / "out", Quick(), monkeypatch)


def rows(n: int, scenes: int) -> list[dict[str, Any]]:
    rng = np.random.Generator(np.random.PCG64(0))
    return [
        {
            "task": f"t{i % 3}",
            "score": float(rng.random() < 0.3 + 0.5 * (i % scenes) / scenes),
            "source_id": f"s{i % scenes}",
            "reply": "a",
            "record": {},
        }
        for i in range(n)
    ]


def test_what_a_result_tells(result: EvalResult) -> None:
    assert result.n == len(result.replies) == 53 and result.errors == 4
    assert result.unscored == {"judge": 1}
    (judge,) = [row for row in result.replies if "unscored" in row]
    assert (judge["id"], judge["score"], judge["correct"]) == ("0-1", None, False)
    scores = [row["score"] or 0.0 for row in result.replies]
    assert result.micro == pytest.approx(sum(scores) / 53) and 0 < result.micro < 1
    assert result.headline == "micro" and set(result.aggregates) == {"micro", "macro"}
    low, high = result.aggregates["micro"]["ci95"]
    assert low < result.micro < high
    means = [task.score.mean for task in result.tasks.values()]
    assert result.macro == pytest.approx(sum(means) / 3)
    # The one reply without a score was not parsed either; questions that failed do not count.
    assert result.parse_failure_rate == pytest.approx(1 / 53)
    assert sum(task.parse_failures for task in result.tasks.values()) == 1
    assert result.protocol["name"] == "official"
    kept = result.kept()
    assert json.loads(json.dumps(kept)) == kept and kept["errors"] == 4


def test_the_interval_is_that_of_scenes() -> None:
    some = rows(600, 20)
    found = aggregates_of(Album(), some, draws=2000)["micro"]
    known = clustered_interval([r["score"] for r in some], [r["source_id"] for r in some])
    assert found["value"] == pytest.approx(known.mean)
    assert found["ci95"] == pytest.approx([known.low, known.high], abs=0.01)
    assert aggregates_of(Album(), some) == aggregates_of(Album(), some)
    assert aggregates_of(Album(), rows(5, 1))["micro"]["ci95"] is None
    assert aggregates_of(Album(), []) == {}


class Own(Album):
    """Sums of its own that need every task, and say which replies they were given."""

    headline = "worst"

    def aggregates(self, given: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        by_task: dict[str, list[float]] = {task: [] for task in ("t0", "t1", "t2")}
        for row in given:
            by_task[row["task"]].append(row["score"] or 0.0)
        means = [sum(scores) / len(scores) for scores in by_task.values()]
        return {"worst": min(means), "said": float(sum(bool(row["reply"]) for row in given))}


def test_sums_of_its_own_and_a_draw_that_lacks_a_task() -> None:
    some = rows(300, 30)
    some = [row for row in some if row["task"] != "t2" or row["source_id"] == "s2"]
    found = aggregates_of(Own(), some)
    assert {"worst", "said", "micro", "macro"} == set(found)
    low, high = found["worst"]["ci95"]  # a third of the draws have no t2
    assert 0 <= low <= found["worst"]["value"] <= high
    slow = type("Slow", (Own,), {"resamples": False})()
    apart = aggregates_of(slow, some)
    assert apart["worst"]["ci95"] is None and apart["worst"]["value"] == found["worst"]["value"]
    assert apart["micro"]["ci95"] is not None


def test_a_failed_question_is_no_empty_reply_that_sums_may_drop() -> None:
    some = rows(30, 5)
    some[3] |= {"reply": "", "score": 0.0, "error": "OSError: x"}
    assert aggregates_of(Own(), some)["said"]["value"] == 30


def test_sums_that_crash_leave_micro_and_macro(caplog: pytest.LogCaptureFixture) -> None:
    found = aggregates_of(Own(), [row for row in rows(30, 5) if row["task"] != "t1"])
    assert set(found) == {"micro", "macro"}
    assert "album cannot be summed up (ZeroDivisionError: division by zero)" in caplog.text


def test_stored_replies_are_graded_again(result: EvalResult, tmp_path: Path) -> None:
    identity, stored = read_replies(tmp_path / "out" / "replies.jsonl")
    assert identity["protocol"] == {"name": "official", "limit": None, "sizes": [1, 2]}
    assert stored == result.replies == regrade(Album(), stored)
    again = rescore(stored, Album(), identity)
    assert again.tasks == result.tasks and again.aggregates == result.aggregates

    class Mended(Album):
        def grade(self, reply: str, item: Item) -> Graded:
            assert item.record["pair"] == [1, 2]
            return Graded(1.0, reply)

    mended = rescore(stored, Mended())
    assert mended.micro == pytest.approx(49 / 53) and mended.unscored == {} and mended.errors == 4
    with pytest.raises(EvaluationError, match="holds no replies"):
        read_replies(tmp_path / "nothing")


def test_replies_under_another_protocol_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = Quick(), Quick(), Quick()
    score(Album(), tmp_path / "out", first, monkeypatch)
    score(Album(limit=5), tmp_path / "out", second, monkeypatch)
    assert second.calls == first.calls
    score(Album(limit=5), tmp_path / "out", third, monkeypatch)
    assert not third.calls
    assert reply_folder(tmp_path, Album()) == tmp_path / "album-official"
