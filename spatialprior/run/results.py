"""The results of a run's stages, put together as its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spatialprior.diagnostics.result import ProbeResult, select_layer
from spatialprior.eval.ablation.names import ABLATIONS
from spatialprior.run.ablations import ablation_of, ablation_report
from spatialprior.run.arms import BEFORE, CONTROL, arms_of, inference_arms_of, trainings_of
from spatialprior.run.comparisons import comparisons
from spatialprior.run.environment import commit, hardware
from spatialprior.run.errors import RunError
from spatialprior.run.schema import RunConfig
from spatialprior.run.stages import Stages
from spatialprior.run.training import MAIN, Training


class Results:
    """What the finished stages of a run say.

    Args:
        config: The run.
        folder: Its folder.
        stages: Its stages.
        device: What it computes on.
    """

    def __init__(
        self, config: RunConfig, folder: Path, stages: Stages, device: torch.device
    ) -> None:
        self.config, self.folder, self.stages, self.device = config, folder, stages, device
        self.arms, self.inference_arms = arms_of(config, folder), inference_arms_of(config)

    def _of(self, stage: str) -> Any:
        def missing() -> Any:
            raise RunError(f"stage {stage} has not run; resume={self.folder} without mode first")

        return self.stages.run(stage, missing)

    def _probe_result(self, name: str, split: str) -> ProbeResult:
        return ProbeResult.from_dict(self._of(f"probe/{name}/{split}"))

    def layer(self, name: str) -> int:
        """The layer that did best on validation clips; the figure is then taken on test clips."""
        return select_layer(self._probe_result(name, "val"))

    def _probe_figures(self, name: str) -> dict[str, Any]:
        """An arm's entry in the report: test figures at the layer chosen on validation clips."""
        layer = self.layer(name)
        other = self._probe_result(name, "other_rope")
        return {
            **self._probe_result(name, "test").at_layer(layer),
            "other_rope": {
                "rope": other.settings["rope"],
                "pck": other.pck_by_layer[layer],
                "confidence_correlation": other.confidence_correlation_by_layer[layer],
                "pck_by_layer": other.pck_by_layer,
            },
        }

    def _ablations(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Those that are asked for, and those that an earlier call of this run has done."""
        assert self.config.eval is not None
        asked = self.config.eval.settings.ablate
        found = [ablation_of(self.config, name) for name in ABLATIONS]
        found = [a for a in found if a.name in asked or self.stages.done(f"eval/{a.arm}")]
        rows = {a.name: self._of(f"eval/{a.arm}")["replies"] for a in found if a.reason is None}
        return ablation_report(found, whole["replies"], rows, self.config.eval.cls.direction)

    def report(self) -> dict[str, Any]:
        """What goes into ``report.json``."""
        config = self.config
        names = [BEFORE, *(arm.name for arm in self.arms)]
        scored = [*names, *self.inference_arms]
        scores = {name: self._of(f"eval/{name}") for name in scored} if config.eval else {}
        seconds = self.stages.seconds()
        return {
            "recipe": config.recipe,
            "size": config.size,
            "seed": config.seed,
            "data": config.data.kind,
            "method": " + ".join(config.priors) or ("VQA" if config.vqa.enabled else "SFT"),
            "priors": list(config.priors),
            "commit": commit(),
            "hardware": hardware(self.device),
            "seconds": {**seconds, "total": sum(seconds.values())},
            "peak_rss_bytes": self.stages.peak_rss_bytes(),
            "probe": {name: self._probe_figures(name) for name in names if config.probe.test_clips},
            "eval": scores.get(MAIN, {}).get("tasks", {}),
            "eval_control": scores.get(CONTROL, {}).get("tasks", {}),
            "eval_before": scores.get(BEFORE, {}).get("tasks", {}),
            "cards": {arm: found["card"] for arm, found in scores.items() if "card" in found},
            **comparisons(scores, set(self.inference_arms)),
            "ablations": self._ablations(scores[MAIN]) if config.eval else {},
            "leaks": self._of("leaks") if config.eval else None,
            "geometry": {
                each.title: self._of(f"geometry/{each.title}")
                for each in trainings_of(self.arms)
                if predicts(config, each)
            },
            "export": self._of(f"export/{MAIN}"),
            "replies": scores.get(MAIN, {}).get("replies", []),
            "config": config.to_dict(),
        }


def predicts(config: RunConfig, each: Training) -> bool:
    """Whether what a training exports says something of geometry, and that is to be scored."""
    able = any(prior.cls.prediction_settings is not None for prior in each.priors.values())
    return able and config.geometry.clips > 0 and config.data.cls.has_geometry
