"""Text metrics: an adapter that says what is missing."""

from __future__ import annotations

import shutil

import pytest

from spatialprior.eval.metrics import text_metrics as module
from spatialprior.eval.metrics.text_metrics import missing, text_metrics

PAIRS = [
    ("a brown chair by the wall", ["a brown chair by the wall", "brown chair"]),
    ("on the left", ["to the left of it", "left side"]),
    ("", ["two"]),
]


def test_without_the_package_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert text_metrics(PAIRS) == {}
    assert "spatialprior[text-metrics]" in missing()[0]


def test_without_java_meteor_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "METEOR" not in text_metrics(PAIRS)
    assert "METEOR" in missing()[0]


def test_words_and_answers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = text_metrics(PAIRS)
    # Eight of nine words occur in an answer, and the answers of closest length have nine, too.
    assert found["BLEU-1"] == pytest.approx(8 / 9, rel=1e-6)
    assert 0 < found["BLEU-4"] < found["BLEU-1"]
    assert 0 < found["Rouge"] < 1
    assert text_metrics([]) == {}


@pytest.mark.slow  # starts a Java machine
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program")
def test_meteor_takes_replies_of_several_lines() -> None:
    pytest.importorskip("pycocoevalcap")
    pairs = [("a brown\nchair", ["a brown chair"]), ("on the\nleft", ["on the left"])]
    assert text_metrics(pairs)["METEOR"] == 1  # as without the line breaks
