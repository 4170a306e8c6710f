"""``mode=correspondence``: the correspondence score of a prior's encoder, over its settings; trains nothing."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialprior.diagnostics.correspondence.heatmap import heatmap
from spatialprior.diagnostics.correspondence.sweep import sweep
from spatialprior.features.choice import EncoderChoice
from spatialprior.features.encoder import FeatureEncoder
from spatialprior.report.verdict import number, with_interval
from spatialprior.run.bind import bind
from spatialprior.run.errors import ConfigError
from spatialprior.run.schema import RunConfig
from spatialprior.train.accelerator import make_accelerator


def correspondence(config: RunConfig) -> int:
    """Score the encoder of ``config``'s prior at all combinations of settings; print, keep as JSON and PNG.

    Raises:
        ConfigError: The run's priors have no encoder, its data no geometry, or a setting does not exist.
    """
    choice, section = _choice(config), config.correspondence
    if not config.data.cls.has_geometry:
        raise ConfigError(
            f"the correspondence score needs depth and poses, which data={config.data.kind} does not have; "
            "choose data=rooms or data=posed_rgbd"
        )
    for values in itertools.product(*section.axes.values()):
        _changed(choice, dict(zip(section.axes, values, strict=True))).check()
    device = make_accelerator(config.scale).device
    try:
        split = config.data.cls(config.data.settings).split(section.split, config.seed)
        clips = [split.clip(index).with_questions(()) for index in range(section.clips)]
    except ValueError as error:
        raise ConfigError(f"data: {error}") from error
    folder = Path(config.output_root) / "correspondence"
    path = folder / f"{choice.kind}-{config.data.kind}.json"

    def make(**values: Any) -> FeatureEncoder:
        return _changed(choice, values).build().to(device)

    table = sweep(make, section.axes, clips, section.score, path)
    print(text_of(table))
    for metric in ("cosine", "difference", "retrieval"):
        if 1 <= len(section.axes) <= 2:
            heatmap(table, metric).savefig(path.with_name(f"{path.stem}-{metric}.png"), dpi=150)
    print(f"\nscores, and heatmaps of one or two axes: {path.with_suffix('')}*")
    return 0


def text_of(table: Mapping[str, Any]) -> str:
    """The scores as a plain table: each encoder setting beside random weights and raw pixels."""
    lines = []
    for pairs in ("all", "adjacent"):
        lines += [
            f"{pairs} pairs of views",
            f"  {'':<34}{'cosine':<8}{'matched − random':<22}retrieval",
        ]
        for cell in table["cells"]:
            said = ", ".join(f"{k}={v}" for k, v in cell["setting"].items()) or "encoder"
            scores = cell["scores"][pairs]
            for arm, name in (
                ("encoder", said),
                ("random", "  random weights"),
                ("pixels", "  pixels"),
            ):
                if arm not in scores:
                    continue
                row = scores[arm]
                gap, found = row["difference"], row["retrieval"]
                told = with_interval(gap["mean"], gap["ci95"])
                lines.append(
                    f"  {name:<34}{number(row['cosine']['mean']):<8}{told:<22}"
                    f"{with_interval(found['mean'], found['ci95'])}"
                )
            own = scores["encoder"]
            told = f"{own['clips']} clips, {own['pairs']} pairs of views, {own['voxels']} voxels"
            lines.append(f"    chance {number(own['chance']['mean'], 3)}; {told}")
    return "\n".join(lines)


def _choice(config: RunConfig) -> EncoderChoice:
    """The encoder of the run's only prior that has one."""
    found = {
        name: prior.settings.encoder
        for name, prior in config.priors.items()
        if isinstance(getattr(prior.settings, "encoder", None), EncoderChoice)
    }
    if len(found) != 1:
        raise ConfigError(
            f"mode=correspondence scores the encoder of one prior, and this run has {len(found)} with an "
            "encoder; choose recipe=vega3d_baseline, and encoder=NAME"
        )
    (choice,) = found.values()
    return choice


def _changed(choice: EncoderChoice, changes: Mapping[str, Any]) -> EncoderChoice:
    values = {**dataclasses.asdict(choice.settings), **changes}
    what = f"{choice.kind} setting"
    return EncoderChoice(
        choice.kind, bind(type(choice.settings), values, "correspondence.axes", what)
    )
