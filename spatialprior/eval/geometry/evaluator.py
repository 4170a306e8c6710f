"""Geometry of an exported model: one prediction for each clip, scored as it comes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.geometry.aligned import AlignedScene, align_scene, save_scene
from spatialprior.eval.geometry.config import GeometryEvalConfig
from spatialprior.eval.geometry.result import summarise
from spatialprior.eval.geometry.scene import SceneScores, score_scene
from spatialprior.export.kept import kept_of, load_model
from spatialprior.export.manifest import read_manifest
from spatialprior.geometry.scene import ScenePrediction
from spatialprior.registry import INJECTORS


def predictor_of(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The kept prior of an export that predicts geometry, and its settings to do so, if it has one."""
    for name, entry in kept_of(read_manifest(folder)["priors"]).items():
        asked = INJECTORS.get(entry["kind"]).prediction_settings
        if asked is not None:
            return name, dict(asked)
    return None


@torch.no_grad()
def evaluate_geometry(
    folder: Path,
    clips: Iterable[MultiViewClip],
    settings: GeometryEvalConfig,
    *,
    device: torch.device | str = "cpu",
    picture: Path | None = None,
) -> dict[str, Any] | None:
    """Score what an export says of the geometry of clips.

    Args:
        folder: The export.
        clips: With geometry.
        settings: Protocol.
        device: Where the model runs.
        picture: Where the first clip, its prediction aligned to its truth, is written for the report
            (``.npz``).

    Returns:
        As :func:`~spatialprior.eval.geometry.result.summarise`; ``None`` where no prior predicts geometry.
    """
    predictor = predictor_of(folder)
    if predictor is None:
        return None
    name, asked = predictor
    model = load_model(folder, device, {name: asked})
    encoder = model.backbone.encoder()
    scenes: list[SceneScores] = []
    for clip in clips:
        bare = clip.with_questions(())
        prediction = model.predict(encoder([bare]).to(device))[name][0]
        scenes.append(score_scene(prediction, bare, settings))
        if picture is not None and (scene := _aligned(prediction, bare, settings)):
            save_scene(picture, scene)
            picture = None
    return summarise(scenes, settings)


def _aligned(
    prediction: ScenePrediction, clip: MultiViewClip, settings: GeometryEvalConfig
) -> AlignedScene | None:
    """``None`` where too few pixels are known to align by."""
    try:
        return align_scene(prediction, clip, settings)
    except ValueError:
        return None
