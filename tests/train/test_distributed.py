"""Two gloo processes follow the single one (loss, gradient norm, end weights) and go on where others stop."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import ENGINES, SCENARIOS, STEPS, Clips, train
from safetensors.torch import load_file

from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.testing import tiny_backbone
from spatialprior.train.log import read_log

QUICK = ("ddp_unequal", "ddp_one_rank_without_geometry", "fsdp2_unequal")
"""Run by default; the others carry the slow marker."""

WORKER = Path(__file__).with_name("distributed_worker.py")


def launch(out: Path, *names: str, processes: int = 2) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += [f"--master_port={port}", str(WORKER), str(out), *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def two(tmp_path_factory, request):
    """Every scenario that is asked for, trained by two processes: one launch, one for each of DeepSpeed's."""
    out = tmp_path_factory.mktemp("two")
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    asked = {call.params.get("name") for call in calls}
    names = [name for name in SCENARIOS if name in asked]
    launch(out, *(name for name in names if not name.startswith("zero")))
    for name in names:
        if name.startswith("zero"):
            launch(out, name)
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Folder of a scenario trained by one process; each training is done once."""
    out = tmp_path_factory.mktemp("one")
    done: dict[object, Path] = {}

    def folder(name: str) -> Path:
        scenario = dataclasses.replace(SCENARIOS[name], sharding="none")
        if scenario not in done:
            done[scenario] = out / name
            train(scenario, done[scenario])
        return done[scenario]

    return folder


def weights(folder: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def follows(mine: Path, theirs: Path, steps: int = STEPS, rough: tuple[str, ...] = ()) -> None:
    """The same curve to six digits; the same weights but for what AdamW makes of rounding noise.

    Losses that end in one of ``rough`` are the same to four.
    """
    logs = [list(read_log(folder / "log.jsonl")) for folder in (mine, theirs)]
    assert [line["step"] for line in logs[0]] == list(range(1, steps + 1))
    for a, b in zip(*logs, strict=True):
        for key in b:
            if key.startswith(("loss", "raw/", "weighted/", "lr/")):
                rel = 1e-4 if key.endswith(rough) else 2e-6
                assert a[key] == pytest.approx(b[key], rel=rel, abs=1e-7), (a["step"], key)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-5)
    ours, others = weights(mine, steps), weights(theirs, steps)
    assert ours.keys() == others.keys()
    for name, tensor in others.items():
        # A weight with a gradient of nearly zero moves by up to the learning rate in either direction.
        assert (ours[name] - tensor).abs().mean() < 5e-5, name
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-3, msg=name)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS],
)
def test_two_processes_follow_one(name, two, one):
    follows(two / name, one(name), SCENARIOS[name].steps)


def test_processes_differ_in_their_passes_where_tokens_are_limited():
    """Guards the scenario with LoRA, which is there for that too."""
    scenario = SCENARIOS["ddp_lora"]
    passes = set()
    for rank in range(2):
        (first,) = step_batches(
            ClipStream(Clips(scenario.clips), None, 4),
            tiny_backbone().encoder(),
            first_step=0,
            steps=1,
            micro_batch=scenario.micro_batch,
            max_tokens=scenario.max_tokens,
            rank=rank,
            ranks=2,
        )
        passes.add(len(first))
    assert passes == {1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{engine}_unequal" for engine in ENGINES])
def test_a_run_goes_on_at_another_process_count(name, two, one, tmp_path):
    """Ten steps by two processes then ten by one, and the reverse."""
    for start in (two / name, one(name)):
        folder = tmp_path / start.parent.name / name
        shutil.copytree(start, folder)
        for late in (folder / "checkpoints").iterdir():
            if late.name > "step-00000015":
                shutil.rmtree(late)
        if start.parent.name.startswith("two"):
            train(dataclasses.replace(SCENARIOS[name], sharding="none"), folder)
        else:
            launch(folder.parent, name)
        follows(folder, one(name))
