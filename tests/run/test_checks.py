"""What is refused before any weight loads, of settings that are each right on their own."""

from __future__ import annotations

import pytest
import torch

from spatialprior.run.arms import arms_of
from spatialprior.run.checks import check_run
from spatialprior.run.compose import compose_run
from spatialprior.run.errors import RunError


@pytest.mark.parametrize(
    ("typed", "arms"),
    [
        (["recipe=sft_qwen"], 1),  # control=sft has nothing to control here
        (["recipe=gasp_qwen", "control=none"], 1),
        (["recipe=gasp_qwen"], 2),
    ],
)
def test_zero3_trains_one_model_a_run(typed, arms, tmp_path):
    config = compose_run([*typed, "size=nano", "scale.sharding=zero3"])
    count = len(arms_of(config, tmp_path))
    assert count == arms
    if arms == 1:
        check_run(config, count, 1, torch.device("cpu"))
        return
    with pytest.raises(RunError, match=r"zero3 trains one model a run .*has 2: add control=none"):
        check_run(config, count, 1, torch.device("cpu"))
