"""The paper's models, at their full size, come apart into eight equal shares (no weights involved)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("full_size_worker.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "billions"),
    [
        (["recipe=gasp_qwen", "backbone.path=Qwen/Qwen2.5-VL-72B-Instruct"], 73.4),
        (["recipe=gasp_llava"], 7.06),
    ],
    ids=["qwen2_5_vl_72b", "llava_next_video_7b"],
)
def test_eight_processes_share_a_model_of_full_size(settings, billions):
    done = subprocess.run(
        [sys.executable, str(WORKER), *settings], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, share = map(int, done.stdout.split())
    assert whole > 0.99e9 * billions  # with adapters and heads a little more
    assert whole / 8 <= share < 1.001 * whole / 8
