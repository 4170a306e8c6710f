"""A scoring that is killed again and again ends with the file of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_material import WORK, Album, Quick, score

HERE = Path(__file__).parent
KILLS = 10


class Launcher:
    """Starts scorings in processes of their own."""

    def __init__(self, export: Path) -> None:
        paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "reply_worker.py"), str(export)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )

    def start(self, out: Path, count: int = 1) -> list[int]:
        """Process numbers of ``count`` that share a scoring."""
        jobs = [[str(out), rank, count] for rank in range(count)]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        return self._line()

    def ended(self) -> list[int]:
        """How they ended."""
        return self._line()

    def _line(self) -> list[int]:
        assert self._process.stdout is not None
        found: list[int] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def launcher(exported: Path) -> Iterator[Launcher]:
    made = Launcher(exported)
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a scoring that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    launcher.start(out)
    assert launcher.ended() == [0]
    assert [path.name for path in out.iterdir()] == ["replies.jsonl"]
    return (out / "replies.jsonl").read_bytes()


def rows_on_disk(out: Path) -> int:
    """Complete lines of replies that are no errors: those come again after a kill."""
    lines = [line for path in out.glob("replies*.jsonl") for line in path.read_bytes().split(b"\n")]
    return sum(line.startswith(b'{"id"') and b'"error": "' not in line for line in lines)


def kill_at_random(
    launcher: Launcher, out: Path, count: int, rng: random.Random, at_least: int = 0
) -> None:
    wanted = rows_on_disk(out) + at_least + rng.randrange(9)
    children = launcher.start(out, count)
    deadline = time.monotonic() + 60
    while rows_on_disk(out) < wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(rng.random() * 0.03)
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert launcher.ended() == [signal.SIGKILL] * count  # it was not over before


@pytest.mark.slow
def test_ten_kills(launcher: Launcher, whole: bytes, tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(KILLS):
        kill_at_random(launcher, tmp_path, 1, rng)
    launcher.start(tmp_path)
    assert launcher.ended() == [0]
    assert (tmp_path / "replies.jsonl").read_bytes() == whole
    rows = [json.loads(line) for line in whole.decode().splitlines()[1:]]
    assert len(rows) == len({row["id"] for row in rows}) == len(list(Album(**WORK).items()))
    assert sum("error" in row for row in rows) == 4 and len({row["reply"] for row in rows}) > 5


@pytest.mark.slow
def test_two_processes_write_the_same_file(
    launcher: Launcher, whole: bytes, tmp_path: Path
) -> None:
    launcher.start(tmp_path, count=2)
    assert launcher.ended() == [0, 0]
    assert (tmp_path / "replies.jsonl").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["replies.jsonl"]


@pytest.mark.slow
def test_what_three_processes_began_one_ends(
    launcher: Launcher, whole: bytes, tmp_path: Path
) -> None:
    rng = random.Random(1)
    for count in (3, 2):
        kill_at_random(launcher, tmp_path, count, rng, at_least=4)
    assert rows_on_disk(tmp_path) >= 4 and not (tmp_path / "replies.jsonl").exists()
    launcher.start(tmp_path)
    assert launcher.ended() == [0]
    assert (tmp_path / "replies.jsonl").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["replies.jsonl"]


@pytest.mark.parametrize("broken", [(), (2,)])
def test_a_file_cut_anywhere(
    broken: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Quick(breaks_on=["1-0", "talk1-1"])
    score(Album(broken=broken), tmp_path / "whole", model, monkeypatch)
    expected = (tmp_path / "whole" / "replies.jsonl").read_bytes()
    interrupted = Quick(breaks_on=["1-0", "talk1-1"])
    interrupted.stop_after = 9
    with pytest.raises(KeyboardInterrupt):
        score(Album(broken=broken), tmp_path / "cut", interrupted, monkeypatch)
    file = tmp_path / "cut" / "replies.jsonl"
    streamed = file.read_bytes()
    assert 8 < streamed.count(b"\n") < expected.count(b"\n")
    rng = random.Random(2)
    for length in [0, 1, len(streamed), *(rng.randrange(len(streamed)) for _ in range(25))]:
        file.write_bytes(streamed[:length])
        score(Album(broken=broken), tmp_path / "cut", model, monkeypatch)
        assert file.read_bytes() == expected, length
