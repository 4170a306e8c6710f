"""Two gloo processes that train a geometry expert follow the single one, one of them with text alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from distributed_worker import ROUTED, Clips, make_trainer, passes_with_views, train
from test_distributed import follows, launch, weights

VARIANTS = sorted(
    name.removeprefix("ddp_expert_") for name in ROUTED if name.startswith("ddp_expert_")
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, cache: str) -> Path:
    """Every scenario, trained by two processes."""
    out = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIALPRIOR_CACHE", cache)
        launch(out, *ROUTED)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_follow_one(
    variant: str, two: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALPRIOR_CACHE", cache)
    scenario = dataclasses.replace(ROUTED[f"ddp_expert_{variant}"], sharding="none")
    train(scenario, tmp_path)
    for engine in ("ddp", "fsdp2"):
        # An angle near zero has no six digits in float32, whatever the number of processes.
        follows(two / f"{engine}_expert_{variant}", tmp_path, scenario.steps, rough=("/rotation",))
    trained = weights(tmp_path, scenario.steps)
    model = make_trainer(scenario, tmp_path / "start").model
    start = model.state_dict()
    moved = {name for name, tensor in trained.items() if not torch.equal(start[name], tensor)}
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert moved <= trains
    still = {name for name in trains - moved if name.startswith("priors.")}
    # Cameras turn alike at first: where they are together does not show in relative poses; nothing is masked.
    unread = {"heads.camera.translation.bias", "vision.embeddings.mask_token"}
    assert {name.removeprefix("priors.geometry.") for name in still} <= unread


def test_one_process_has_a_pass_of_text_alone_where_the_other_has_views() -> None:
    """Guards the scenarios with a clip a pass, which are there for that."""
    passes = passes_with_views(steps=4)
    assert any(a and not b for a, b in zip(*passes, strict=True))


def test_the_parts_of_the_expert_are_units_called_once_a_pass(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shards them gathers their weights around that call."""
    monkeypatch.setenv("SPATIALPRIOR_CACHE", cache)
    model = make_trainer(dataclasses.replace(ROUTED["ddp_expert_vg_ce"]), tmp_path).model
    blocks = model.injectors["geometry"].blocks()
    assert len(blocks) == 5 * model.backbone.num_layers
    calls = dict.fromkeys(blocks, 0)
    for block in blocks:
        block.register_forward_hook(lambda module, *_: calls.update({module: calls[module] + 1}))
    for index in (0, 1):  # with views, and text alone
        model(model.backbone.encoder()([Clips("text").clip(index)]))
        assert set(calls.values()) == {index + 1}
