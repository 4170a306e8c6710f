"""What can be known to be wrong with a run before any weight loads, each as one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from spatialprior.core.injector import MissingClipFieldError, Needs
from spatialprior.model import check_one_reserves, check_prior_names
from spatialprior.run.arms import CONTROL, arms_of, inference_arms_of, trainings_of
from spatialprior.run.errors import RunError
from spatialprior.run.leaks import check_leaks
from spatialprior.run.schema import Component, RunConfig
from spatialprior.run.sources import benchmark_of
from spatialprior.run.training import Training


def check_run(config: RunConfig, processes: int, device: torch.device) -> None:
    """Check what the settings say together, and of a run that trains the files and the checkpoint too.

    Args:
        config: The run.
        processes: How many processes train each.
        device: What this one computes on.

    Raises:
        RunError: A setting does not go with another one, with the arms, the processes or the device; or the
            benchmark's scenes are in the training data.
        MissingClipFieldError: A prior needs geometry that the data does not have.
        BackboneError: The checkpoint cannot be had, or is another family's.
    """
    check_prior_names(config.priors)
    trainings = trainings_of(arms_of(config, Path()))
    for each in trainings:
        _check_training(each, processes)
    if config.scale.sharding == "zero3" and len(trainings) > 1:
        ways = "add control=none and leave arms out"
        if config.phases:
            ways = "add control=none and phases={}, leave arms out"
        raise RunError(
            "scale.sharding=zero3 trains one model a run (DeepSpeed mixes up a second one in a process), and "
            f"this run has {len(trainings)}: {ways}, or use scale.sharding=fsdp2"
        )
    if config.mode == "train":
        _check_sources(config, trainings)
    if config.mode in ("train", "eval"):
        with _told_as("eval"):
            check_leaks(config, trainings)
    if config.mode == "train":
        for priors in (*(each.priors for each in trainings), *inference_arms_of(config).values()):
            _check_priors(priors, config)
        _check_backbone(config.backbone, device)


def _check_training(each: Training, processes: int) -> None:
    """What one of the run's trainings asks for is in its data, and divides among the processes."""
    clips = each.trainer.clips_per_step
    if clips % processes:
        raise RunError(
            f"{each.path}trainer.clips_per_step={clips} does not divide among {processes} processes; "
            "start another number of them, or set a multiple"
        )
    needs = {}
    for name, prior in each.priors.items():
        with _told_as(f"{each.path}priors.{name}"):
            needs[name] = _needs(prior)
    with _told_as(f"{each.path}prior"):
        check_one_reserves(needs)
    if each.start is not None:
        for name, prior in each.priors.items():
            with _told_as(f"{each.path}priors.{name}"):
                prior.cls.check_handover(each.start.priors[name].settings, prior.settings)
    needs_geometry = {name for name, wanted in needs.items() if wanted.clip_fields}
    needs_geometry |= {"vqa"} if each.vqa else set()
    if needs_geometry and not each.data.cls.has_geometry:
        raise MissingClipFieldError(
            f"{', '.join(sorted(needs_geometry))} needs depth and poses, which "
            f"{each.path}data={each.data.kind} does not have; choose data=rooms or data=posed_rgbd"
        )
    asks = any(_asks(source) for source in (each.data, each.instruction))
    if asks or needs_geometry or each.arm == CONTROL:
        return
    if each.phase:
        raise RunError(
            f"phases.{each.phase} has nothing to learn: its data asks no questions, and none of its priors "
            "learns from geometry; add questions, or leave the phase out"
        )
    raise RunError(
        f"data={each.data.kind} asks no questions, so plain SFT has nothing to learn; "
        "add instruction=rooms"
    )


def _needs(prior: Component) -> Needs:
    """What a prior asks for, whatever the depth of the decoder."""
    needs: Needs = prior.cls(prior.settings).needs(num_layers=1000)
    return needs


def _check_priors(priors: Mapping[str, Component], config: RunConfig) -> None:
    """What a prior depends on is there, and goes with how views reach the backbone."""
    for name, prior in priors.items():
        with _told_as(f"priors.{name}"):
            prior.cls.check(prior.settings)
        if config.scale.compile and _needs(prior).reserve is not None:
            raise RunError(
                f"priors.{name} takes a path of its own through the decoder layers, which scale.compile=true "
                "closes; set scale.compile=false"
            )
        if _needs(prior).echo and getattr(config.backbone.settings, "frames", "") == "video":
            raise RunError(
                f"priors.{name} adds tokens behind the views, which backbone.frames=video has no place for; "
                "set backbone.frames=images, or choose another fusion"
            )


def _check_sources(config: RunConfig, trainings: Sequence[Training]) -> None:
    """Sources list their files, and the benchmark meets the source that it scores."""
    seen: list[Component] = []
    for each in trainings:
        for key, source in (("data", each.data), ("instruction", each.instruction)):
            if source is not None and source not in seen:
                seen.append(source)
                with _told_as(f"{each.path}{key}"):
                    _ = source.cls(source.settings)
    if config.eval is not None:
        with _told_as("eval"):
            _ = benchmark_of(config)


def _check_backbone(component: Component, device: torch.device) -> None:
    """The checkpoint is there and of the family; weights suit the device and what trains them."""
    cls, settings = component.cls, component.settings
    cls.check(settings)
    if getattr(settings, "dtype", "float32") != "bfloat16":
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise RunError(
            "backbone.dtype=bfloat16, but this GPU has no bfloat16; use backbone.dtype=float32"
        )
    if getattr(settings, "lora", None) is None:
        raise RunError(
            "backbone.dtype=bfloat16 with all weights trained: AdamW's small steps vanish in bfloat16; use "
            "backbone.dtype=float32 with scale.mixed_precision=bf16, or LoRA (lora=rank_128)"
        )


def _asks(source: Component | None) -> bool:
    """Whether a source's clips carry questions, as it is set."""
    if source is None or not source.cls.has_questions:
        return False
    return getattr(source.settings, "questions_per_clip", 1) > 0


@contextmanager
def _told_as(key: str) -> Iterator[None]:
    """What a component refuses, as one line that names it."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        named = f"{key}." in str(error) or f"{key}=" in str(error)
        raise RunError(str(error) if named else f"{key}: {error}") from error
