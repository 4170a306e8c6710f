"""Out of memory: one line with this run's own settings to lower."""

import pytest
import torch

from spatialprior.run.compose import compose_run
from spatialprior.run.errors import RunError
from spatialprior.run.out_of_memory import explained

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"
    ),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_it_says_what_to_lower(error):
    config = compose_run(["recipe=gasp_qwen", "scale.micro_batch=4"])
    told = explained(error, config)
    assert isinstance(told, RunError)
    for way in ("scale.micro_batch=2", "gradient_checkpointing=nonreentrant", "lora=rank_128"):
        assert way in str(told)


def test_it_says_nothing_that_is_done_already():
    config = compose_run(
        [
            "recipe=gasp_qwen",
            "scale=8gpu_fsdp2",
            "scale.max_tokens=9000",
            "backbone.lora.rank=8",
        ]
    )
    told = str(explained(ERRORS[0], config))
    assert "scale.max_tokens=4500" in told
    for done in ("micro_batch", "gradient_checkpointing", "8gpu_fsdp2", "lora="):
        assert done not in told


def test_other_errors_stay_what_they_are():
    error = RuntimeError("shape mismatch")
    assert explained(error, compose_run(["recipe=gasp_qwen"])) is error
