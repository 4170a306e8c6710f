"""Text metrics: an adapter that says what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from threading import Lock
from types import ModuleType
from typing import Any

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


class FakeMeteor:
    """Like the real one: a program of its own, and a lock that its destructor would wait for."""

    made: list[FakeMeteor]

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        self.meteor_p = subprocess.Popen(wait, stdin=pipe, stdout=pipe, stderr=pipe)
        self.lock = Lock()
        self.made.append(self)

    def compute_score(self, *said: Any) -> tuple[float, list[float]]:
        self.lock.acquire()
        self.said = said
        if self.said[1][0] != ["wait"]:
            self.lock.release()
            return 0.5, []
        assert self.meteor_p.stdout is not None
        return float(self.meteor_p.stdout.readline()), []


@pytest.fixture
def fake_meteor(monkeypatch: pytest.MonkeyPatch) -> list[FakeMeteor]:
    fake = ModuleType("pycocoevalcap.meteor.meteor")
    fake.__dict__["Meteor"] = FakeMeteor
    for name in ("pycocoevalcap", "pycocoevalcap.meteor"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(FakeMeteor, "made", [], raising=False)
    return FakeMeteor.made


def test_meteor_reads_one_line_of_utf8_a_text(fake_meteor: list[FakeMeteor]) -> None:
    assert module._meteor({0: ["two\r\nchairs"]}, {0: ["\ud800 ü\rtwo"]}) == 0.5
    (made,) = fake_meteor
    assert made.said == ({0: ["two  chairs"]}, {0: ["? ü two"]})
    assert made.meteor_p.poll() is not None


def test_meteor_is_given_up_after_its_time(
    fake_meteor: list[FakeMeteor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "METEOR_SECONDS", 0.1)
    assert module._meteor({0: ["a"]}, {0: ["wait"]}) is None
    assert "METEOR is left out" in caplog.text
    assert fake_meteor[0].meteor_p.poll() is not None
    assert not fake_meteor[0].lock.locked()
