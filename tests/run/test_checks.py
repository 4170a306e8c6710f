"""What is refused before any weight loads, of settings that are each right on their own."""

from __future__ import annotations

import json

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
    assert len(arms_of(config, tmp_path)) == arms
    if arms == 1:
        check_run(config, 1, torch.device("cpu"))
        return
    with pytest.raises(RunError, match=r"zero3 trains one model a run .*has 2: add control=none"):
        check_run(config, 1, torch.device("cpu"))


def test_a_prior_without_geometry_trains_on_data_without_it(tmp_path):
    (tmp_path / "chat.json").write_text(json.dumps([]))
    sources = {f"data.sources.{name}.path": tmp_path / "chat.json" for name in ("spar", "hound")}
    config = compose_run(
        ["recipe=vega3d_baseline", "size=paper", *(f"{k}={v}" for k, v in sources.items())]
    )
    assert not config.data.cls.has_geometry and list(config.priors) == ["vega3d"]
    assert not config.arms and not config.inference_arms, "nothing would score them"
    # The next thing that is missing: the published generator.
    with pytest.raises((RunError, ValueError), match=r"Wan-AI|no record|empty|holds no"):
        check_run(config, 1, torch.device("cpu"))


def test_video_has_no_place_for_further_tokens():
    config = compose_run(
        [
            "recipe=vega3d_baseline",
            "backbone.frames=video",
            "priors.vega3d.fusion.kind=sequence_concat",
        ]
    )
    with pytest.raises(RunError, match=r"backbone\.frames=video has no place"):
        check_run(config, 1, torch.device("cpu"))


def test_every_arm_is_checked_before_the_first_trains():
    config = compose_run(
        ["recipe=vega3d_baseline", "arms={deep: {vega3d: {encoder: {layer: 99}}}}"]
    )
    with pytest.raises(RunError, match=r"layer=99"):
        check_run(config, 1, torch.device("cpu"))
