"""Two gloo processes that train VEGA-3D follow the single one, where one of them may have text alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from distributed_worker import FUSED, Clips, make_trainer, passes_with_views, train
from safetensors import safe_open
from test_distributed import follows, launch, weights


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every scenario, trained by two processes with one cache between them."""
    out = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIALPRIOR_CACHE", str(out / "cache"))
        launch(out, *FUSED)
    return out


@pytest.mark.parametrize("fusion", ["token_gate", "cross_attention"])
def test_two_processes_follow_one(
    fusion: str, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path / "cache"))
    scenario = dataclasses.replace(FUSED[f"ddp_{fusion}"], sharding="none")
    train(scenario, tmp_path)
    for engine in ("ddp", "fsdp2"):
        follows(two / f"{engine}_{fusion}", tmp_path, scenario.steps)
    trained = weights(tmp_path, scenario.steps)
    start = make_trainer(scenario, tmp_path / "start").model.state_dict()
    for name in (name for name in start if name.startswith("priors.")):
        assert not torch.equal(start[name], trained[name]), f"{name} has not moved"


def test_one_process_has_a_pass_of_text_alone_where_the_other_has_views() -> None:
    """Guards the scenarios, which are there for that."""
    passes = passes_with_views(steps=6)
    assert len(passes[0]) == len(passes[1]) == 12
    assert any(a and not b for a, b in zip(*passes, strict=True))


def test_both_processes_keep_features_in_one_cache(two: Path) -> None:
    """Every different frame is kept once, whoever of them made it, and nothing half-written stays."""
    files = [path for path in (two / "cache" / "features").rglob("*") if path.is_file()]
    clips = [Clips("text").clip(index) for index in range(len(Clips("text")))]
    frames = {image.numpy().tobytes() for clip in clips for image in clip.images}
    assert len(frames) > 2 and len(files) == len(frames)
    for path in files:
        with safe_open(path, "pt") as file:
            assert file.get_tensor("values").isfinite().all()
