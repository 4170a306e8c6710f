"""Benchmarks that want a GPU, tried at the nano size: they run, and their figures are those that they name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_g2vlm_gpu_runs_tiny_on_a_cpu(tmp_path):
    out = tmp_path / "g2vlm_gpu.json"
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/g2vlm_gpu.py", "--device", "cpu", "--tiny"),
            *("--views", "2", "--rounds", "1", "--out", str(out)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SPATIALPRIOR_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert set(report["cases"]) == {
        "prefill: expert, from pixels / stock, milliseconds",
        "prefill: expert, features kept / stock, milliseconds",
        "step: stage geometry / SFT of the stock model, milliseconds",
        "step: stage ce_only / SFT of the stock model, milliseconds",
    }
    for case in report["cases"].values():
        over, under = case["sides"].values()
        assert case["value"] == over / under > 0
    # Two views of 32 x 32 in patches of 8, each between two markers.
    tokens = report["setting"]["tokens"]
    assert tokens["geometry"] == 2 * 4 * 4
    assert tokens["with expert"] - tokens["stock"] == tokens["geometry"] + 2 * 2
    table = [line.split(": ")[1] for line in done.stdout.splitlines() if line.startswith("step: ")]
    assert [row.split("  ")[0] for row in table] == [
        "SFT of the stock model",
        "stage geometry",
        "stage ce_only",
    ]
