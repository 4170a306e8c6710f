"""Submitting through submitit, on its local executor: the tasks find each other and share one run."""

from __future__ import annotations

import json

import pytest

from spatialprior.run import slurm

pytest.importorskip("submitit")
ROOMS = ["train_rooms=4", "val_rooms=2", "test_rooms=2", "frames_per_room=4", "window=3"]


@pytest.mark.slow
def test_two_local_tasks_make_one_run(tmp_path, nano_folder, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = [
        "recipe=gasp_qwen",
        "control=none",
        "eval=null",
        "trainer.steps=2",
        "trainer.clips_per_step=2",
        "probe.val_clips=1",
        "probe.test_clips=1",
        *(f"{source}.{setting}" for source in ("data", "instruction") for setting in ROOMS),
        *(f"{source}.cache_dir={tmp_path}/cache" for source in ("data", "instruction")),
        f"backbone.path={nano_folder}",
        f"output_root={tmp_path}/runs",
    ]
    options = ["--cluster", "local", "--gpus", "0", "--tasks", "2", "--cpus", "1", "--hours", "0.1"]
    arguments = slurm.parser().parse_args(options)
    job, folder = slurm.submit(arguments, settings)
    job.results()
    assert json.loads((folder / "report.json").read_text())["recipe"] == "gasp_qwen"
    logs = sorted((folder / "slurm").glob("*_log.out"))
    assert len(logs) == 2
    assert sum("report:" in log.read_text() for log in logs) == 1  # the first process speaks


def test_a_typo_costs_one_line_and_no_job(capsys):
    assert slurm.main(["--cluster", "local", "--", "recipe=gasp_qwenn"]) == 2
    assert "did you mean gasp_qwen?" in capsys.readouterr().err


def test_what_is_submitted_is_what_a_preempted_job_submits_again(tmp_path):
    run = slurm.SlurmRun(str(tmp_path))
    assert run.checkpoint().function is run
