"""The score over a grid of an encoder's settings (such as layer and noise level), one cell after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spatialprior.core.clip import MultiViewClip
from spatialprior.diagnostics.correspondence.config import CorrespondenceConfig
from spatialprior.diagnostics.correspondence.score import score_encoder
from spatialprior.features.encoder import FeatureEncoder
from spatialprior.report.schema import jsonable, write_text


def sweep(
    make: Callable[..., FeatureEncoder],
    axes: Mapping[str, Sequence[Any]],
    clips: Sequence[MultiViewClip],
    config: CorrespondenceConfig,
    path: Path,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Score the encoder at every combination of settings; what ``path`` already holds is not computed again.

    A kept cell is taken when the encoder's settings and weights, the score's settings and the clips' ids are
    those it was computed with; otherwise it is computed anew.

    Args:
        make: Settings as keywords -> encoder, e.g. ``lambda layer, noise: ...``.
        axes: Setting -> values, e.g. ``{"layer": [10, 20], "noise": [0.0, 0.3]}``.
        clips: See :func:`~spatialprior.diagnostics.correspondence.score.score_encoders`.
        config: Settings of the score.
        path: JSON file, rewritten whole after every cell.
        progress: Whether to show bars.

    Returns:
        ``axes``, ``settings``, ``clips`` (ids), and ``cells``: a list of ``setting``, ``key`` and ``scores``,
        in the order of the axes' product. ``path`` holds the same, and as ``others`` what it held before of
        other settings.

    Raises:
        ValueError: ``path`` holds something else; or as ``score_encoders``.
    """
    kept = _read(path)
    ids = [clip.clip_id for clip in clips]
    table: dict[str, Any] = jsonable(
        {"axes": axes, "settings": dataclasses.asdict(config), "clips": ids, "cells": []}
    )
    settings = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    for setting in tqdm(settings, desc="sweep", unit="cell", disable=not progress):
        encoder = make(**setting)
        what = jsonable([table["settings"], ids, encoder.settings()])
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        if key not in kept:
            name = ", ".join(f"{axis}={value}" for axis, value in setting.items())
            kept[key] = jsonable(score_encoder(name, encoder, clips, config, progress=progress))
        table["cells"].append({"setting": jsonable(setting), "key": key, "scores": kept[key]})
        # Cells of an earlier sweep with other settings are kept too: they may be asked for again.
        others = [{"key": k, "scores": s} for k, s in kept.items() if k not in _keys(table)]
        write_text(path, json.dumps({**table, "others": others}, indent=1, allow_nan=False) + "\n")
    return table


def _keys(table: Mapping[str, Any]) -> set[str]:
    return {cell["key"] for cell in table["cells"]}


def _read(path: Path) -> dict[str, Any]:
    """Key -> scores of the cells in an earlier file; empty without one."""
    if not path.exists():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {c["key"]: c["scores"] for c in [*table["cells"], *table.get("others", [])]}
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} holds no sweep ({error}); move it away, or give another file"
        ) from error
