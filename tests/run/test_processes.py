"""A run of several processes: one report, the cause of a crash by name, and what cannot be shared out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spatialprior.run.compose import compose_run
from spatialprior.run.errors import RunError
from spatialprior.run.pipeline import Pipeline
from spatialprior.run.processes import FAILURE_FILE, Processes
from spatialprior.run.stages import Stages

HERE = Path(__file__).parent
ROOMS = ["train_rooms=4", "val_rooms=2", "test_rooms=2", "frames_per_room=4", "window=3"]


@pytest.fixture(scope="module")
def world(tmp_path_factory, nano_folder):
    base = tmp_path_factory.mktemp("processes")
    return [
        "recipe=gasp_qwen",
        "control=none",
        "eval=null",
        "trainer.steps=4",
        "trainer.clips_per_step=2",
        "trainer.checkpoint_every=1",
        "probe.val_clips=1",
        "probe.test_clips=1",
        *(f"{source}.{setting}" for source in ("data", "instruction") for setting in ROOMS),
        *(f"{source}.cache_dir={base}/cache" for source in ("data", "instruction")),
        f"backbone.path={nano_folder}",
        f"output_root={base}/runs",
    ]


def launch(program: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    return subprocess.run(
        [*command, *program, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("how", ["raise", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_crash_of_one_process_ends_the_run_and_names_the_cause(how, world):
    failed = launch([str(HERE / "failing_worker.py"), how], world)
    assert failed.returncode != 0
    folder = Path(re.search(r"run folder: (.*)", failed.stdout)[1])
    if how == "kill":
        assert re.search(r"rank\s*: 1 ", failed.stderr), failed.stderr
        assert "SIGKILL" in failed.stderr, failed.stderr
    else:
        assert "spatialprior: loss term gasp/corr is nan on clips room-7" in failed.stderr
        failure = json.loads((folder / FAILURE_FILE).read_text())
        assert failure["rank"] == 1 and "gasp/corr is nan" in failure["message"]
    # Two steps are safe, and both processes go on from there.
    resumed = launch(["-m", "spatialprior.run"], [f"resume={folder}"])
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert json.loads((folder / "stages/train.after.json").read_text())["result"] == {
        "steps": 4,
        "resumed_from": pytest.approx(
            1.5, abs=0.5
        ),  # the second may still have been on its way to disk
        "seconds": pytest.approx(0, abs=600),
    }
    assert not (folder / FAILURE_FILE).exists()
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_processes_answer_together_and_one_alone_gives_the_same_replies(world):
    scored = [*(a for a in world if a != "eval=null"), "eval.clips=6", "eval.lookup_clips=4"]
    scored.append("eval.ablate=[blind]")
    done = launch(
        ["-m", "spatialprior.run"], [*scored, "eval.questions_per_clip=4", "eval.batch=4"]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = Path(re.search(r"run folder: (.*)", done.stdout)[1])
    files = sorted((folder / "replies").rglob("*.jsonl"))
    assert [path.name for path in files] == ["replies.jsonl"] * 3
    together = [path.read_bytes() for path in files]
    assert all(text.count(b"\n") == 25 for text in together)
    for path in files:
        path.unlink()
    Pipeline(compose_run([f"resume={folder}", "mode=eval"]), folder).run()
    assert [path.read_bytes() for path in files] == together


# --- without a launch ---------------------------------------------------------------------------


def test_a_waiting_process_learns_why_it_waits_in_vain(tmp_path):
    Processes(1, 2).failed(tmp_path, ValueError("no depth\nhere"))
    waiting = Stages(tmp_path / "stages", processes=Processes(2, 3))
    with pytest.raises(
        RunError,
        match=r"process 2 stopped because process 1 on .* failed: ValueError: no depth here",
    ):
        waiting.run("probe/before", lambda: pytest.fail("the first process does this"))


def test_the_first_failure_stays(tmp_path):
    first, second = Processes(0, 2), Processes(1, 2)
    assert isinstance(first.failed(tmp_path, ValueError("cause")), ValueError)
    consequence = RuntimeError("[../gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    told = second.failed(tmp_path, consequence)
    assert isinstance(told, RunError) and "ValueError: cause" in str(told)
    assert json.loads((tmp_path / FAILURE_FILE).read_text())["message"] == "ValueError: cause"
    assert [path.name for path in tmp_path.iterdir()] == [FAILURE_FILE]


def test_a_folder_that_another_node_does_not_see(tmp_path):
    with pytest.raises(RunError, match="on a file system that all nodes share"):
        Processes(1, 2).wait_for(tmp_path / "missing", tmp_path, patience=0.1)


def test_a_single_process_keeps_its_own_error(tmp_path):
    error = ValueError("x")
    assert Processes().failed(tmp_path, error) is error and not list(tmp_path.iterdir())


def test_clips_that_do_not_divide_are_told_before_any_weight_loads(world, tmp_path, monkeypatch):
    config = compose_run([*world, "trainer.clips_per_step=3", "backbone.path=/no/such/model"])
    pipeline = Pipeline(config, tmp_path)
    pipeline.processes = Processes(0, 2)
    with pytest.raises(RunError, match="clips_per_step=3 does not divide among 2 processes"):
        pipeline.run()
