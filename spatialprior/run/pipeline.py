"""The whole path of a run: probe, train, export, probe again, score, report; the same for every arm."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from spatialprior.core.clip import MultiViewClip
from spatialprior.data.dataset import ClipDataset
from spatialprior.data.stream import ClipStream
from spatialprior.data.vqa import VqaClips
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.diagnostics.probe import probe
from spatialprior.diagnostics.trace import trace_clip
from spatialprior.eval.ablation.benchmark import Ablated
from spatialprior.eval.ablation.names import VIEWS
from spatialprior.eval.evaluator import evaluate, load_exported, reply_folder
from spatialprior.eval.geometry.evaluator import evaluate_geometry
from spatialprior.export import export_model, verify_manifest
from spatialprior.export.handover import begin, settings_at
from spatialprior.export.kept import plain_settings
from spatialprior.model import SpatialModel
from spatialprior.report.html import write_html
from spatialprior.report.schema import jsonable, write_report
from spatialprior.report.summary import summary
from spatialprior.run.ablations import ablation_of
from spatialprior.run.arms import BEFORE, arms_of, inference_arms_of, trainings_of
from spatialprior.run.checks import check_run
from spatialprior.run.compose import RECIPE_FILE, save_run
from spatialprior.run.leaks import audit_of
from spatialprior.run.lora_targets import tell_adapted
from spatialprior.run.out_of_memory import explained
from spatialprior.run.processes import Processes
from spatialprior.run.result_card import result_card
from spatialprior.run.results import Results, predicts
from spatialprior.run.schema import Component, RunConfig, plain
from spatialprior.run.sources import benchmark_of
from spatialprior.run.stages import Stages
from spatialprior.run.training import Training
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.checkpoint import Checkpoints
from spatialprior.train.tracking import open_tracker
from spatialprior.train.trainer import CHECKPOINTS, Trainer

_REDONE = {
    "probe": ("probe", "trace"),
    "eval": ("eval", "leaks", "geometry"),
    "export": ("export", "probe", "trace", "eval", "leaks", "geometry"),
}
"""Mode -> stages that it does again on a finished run."""


def run(config: RunConfig) -> int:
    """Run (or go on with) what ``config`` describes and print where the report lies."""
    accelerator = make_accelerator(config.scale)
    processes = Processes.of(accelerator)
    folder = processes.shared_folder(lambda: run_folder(config))
    if processes.first:
        print(f"run folder: {folder}")
    try:
        report = Pipeline(config, folder, accelerator).run()
    except BaseException as error:
        raise processes.failed(folder, explained(error, config))  # noqa: B904 (mostly the same error)
    if processes.first:
        print()
        print(summary(report))
        print(f"\nreport: {folder / 'report.html'}")
    return 0


def run_folder(config: RunConfig) -> Path:
    """The folder to resume, or a new one ``<output_root>/<recipe>/<time>-<hash>``, with its ``recipe.yaml``."""
    if config.resume is not None:
        return Path(config.resume)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(config.output_root) / config.recipe / f"{stamp}-{config.fingerprint()}"
    save_run(config, folder / RECIPE_FILE)
    return folder


class Pipeline:
    """One run in one folder. Every stage is kept when it is done; a second call does only what is missing."""

    def __init__(
        self, config: RunConfig, folder: Path, accelerator: Accelerator | None = None
    ) -> None:
        self.config, self.folder = config, Path(folder)
        self.accelerator = accelerator or make_accelerator(config.scale)
        self.processes = Processes.of(self.accelerator)
        self.stages = Stages(
            self.folder / "stages", lambda name: tqdm.write(f"-- {name}"), self.processes
        )
        self.arms = arms_of(config, folder)
        self.inference_arms = inference_arms_of(config)
        self._results = Results(config, self.folder, self.stages, self.accelerator.device)

    def run(self) -> dict[str, Any]:
        """All stages in order; returns what went into ``report.json``."""
        check_run(self.config, self.processes.count, self.accelerator.device)
        self.processes.from_first(self._forget)
        base = self._base()
        self._look(BEFORE, base)
        for each in trainings_of(self.arms):
            self.stages.run(f"train/{each.name}", partial(self._train, each), together=True)
            self.stages.run(f"export/{each.name}", partial(self._export, each))
            if predicts(self.config, each):
                self.stages.run(f"geometry/{each.title}", partial(self._geometry, each))
            if not each.phase:
                self._look(each.name, each.export)
        if self.config.eval is not None:
            for name, priors in self.inference_arms.items():
                self.processes.from_first(partial(self._forget_changed, name, priors))
                score = partial(self._eval, name, self.arms[0].export, priors)
                self.stages.run(f"eval/{name}", score, together=True)
            for name in self.config.eval.settings.ablate:
                self._ablate(name)
            self.stages.run("leaks", self._leaks)
        report = self._results.report()
        if self.processes.first:
            report = write_report(report, self.folder / "report.json")
            write_html(report, self.folder)
        return report

    def _forget(self) -> None:
        """Drop the stages that the mode does again."""
        for prefix in _REDONE.get(self.config.mode, ()):
            self.stages.forget(prefix)
        if self.config.mode == "export":
            for each in trainings_of(self.arms):
                self.stages.forget("export", each.export)

    def _forget_changed(self, name: str, priors: dict[str, Component]) -> None:
        """Drop what an inference arm of this name scored with other settings."""
        kept = self.stages.kept(f"eval/{name}")
        changes = {prior: plain_settings(component.settings) for prior, component in priors.items()}
        if kept is not None and kept["settings"].get("changes") != jsonable(changes):
            self.stages.forget(f"eval.{name}", self.folder / "replies" / name)

    # --- stages ---------------------------------------------------------------------------

    def _look(self, name: str, checkpoint: Path) -> None:
        """Probe a checkpoint on validation and test clips, draw its matches, and score its answers."""
        if self.config.probe.test_clips:
            for split in ("val", "test"):
                self.stages.run(f"probe/{name}/{split}", partial(self._probe, checkpoint, split))
            self.stages.run(f"probe/{name}/other_rope", partial(self._probe_other_rope, checkpoint))
            self.stages.run(f"trace/{name}", lambda: self._trace(name, checkpoint))
        if self.config.eval is not None:
            score = partial(self._eval, name, checkpoint)
            self.stages.run(f"eval/{name}", score, together=True)

    def _base(self) -> Path:
        """The starting point as an exported folder: what is scored is always what would ship."""
        folder = self.folder / BEFORE / "export"

        def write() -> Any:
            return export_model(
                SpatialModel(self._load(), {}), folder, recipe_hash=self.config.fingerprint()
            ).to_dict()

        self.stages.run(f"export/{BEFORE}", write)
        return folder

    def _train(self, each: Training) -> dict[str, Any]:
        tracker = None
        if self.processes.first:
            name = f"{self.config.recipe}/{each.title}"
            tracker = open_tracker(self.config.wandb, each.folder, name)
        trainer = self._trainer(each, tracker)
        if self.processes.first:
            tell_adapted(trainer.model.backbone, each.folder)
        try:
            return dataclasses.asdict(trainer.run())
        finally:
            if tracker is not None:
                tracker.finish()  # the next training has a run of its own

    def _export(self, each: Training) -> dict[str, Any]:
        trainer = self._trainer(each)
        trainer.checkpoints.load_weights(trainer.model)
        return export_model(trainer.model, each.export, recipe_hash=self._hash(each)).to_dict()

    def _trainer(self, each: Training, tracker: Any = None) -> Trainer:
        return Trainer(
            self._build(each),
            self._stream(each),
            each.trainer,
            self.config.scale,
            self.accelerator,
            each.folder,
            recipe_hash=self._hash(each),
            seed=self.config.seed,
            label=f"train {each.title}",
            tracker=tracker,
        )

    def _probe(
        self, checkpoint: Path, split: str, settings: ProbeConfig | None = None
    ) -> dict[str, Any]:
        backbone = self._load(checkpoint)
        clips = self._val_clips if split == "val" else self._test_clips
        bar = tqdm(clips, desc=f"probe {split}", unit="clip", leave=False)
        return dataclasses.asdict(
            probe(backbone, backbone.encoder(), bar, settings or self.config.probe)
        )

    def _probe_other_rope(self, checkpoint: Path) -> dict[str, Any]:
        """The test clips once more, with the rotary embedding where it was left out and the reverse."""
        settings = dataclasses.replace(self.config.probe, rope=not self.config.probe.rope)
        return self._probe(checkpoint, "test", settings)

    def _trace(self, name: str, checkpoint: Path) -> None:
        backbone = self._load(checkpoint)
        layer = self._results.layer(name)
        trace = trace_clip(
            backbone, backbone.encoder(), self._test_clips[0], layer, self.config.probe
        )
        trace.save(self.folder / "pictures" / f"{name}.npz")

    def _ablate(self, name: str) -> None:
        """Score the recipe's export once more without something, where that can be done."""
        ablation, export = ablation_of(self.config, name), self.arms[0].export
        if ablation.reason is None:
            benchmark = Ablated(self._benchmark, name) if name in VIEWS else self._benchmark
            work = partial(self._eval, ablation.arm, export, ablation.changed, benchmark)
            self.stages.run(f"eval/{ablation.arm}", work, together=True)

    def _leaks(self) -> dict[str, Any]:
        return audit_of(self.config, trainings_of(self.arms), self._benchmark).to_dict()

    def _eval(
        self,
        name: str,
        checkpoint: Path,
        changed: dict[str, Component] | None = None,
        benchmark: Any = None,
    ) -> dict[str, Any]:
        benchmark = benchmark or self._benchmark
        out = reply_folder(self.folder / "replies" / name, self._benchmark)
        result = evaluate(
            checkpoint,
            benchmark,
            backbone=self.config.backbone.cls,
            settings=self.config.backbone.settings,
            out=out,
            device=self.accelerator.device,
            label=f"score {name}",
            changes={prior: c.settings for prior, c in (changed or {}).items()},
            workers=self.processes.workers(self.folder),
        )
        kept = result.kept()
        if not self.processes.first:  # the first has all replies
            return kept
        run = self.config, self.folder, self.accelerator.device, self.processes.count
        return kept | {"card": result_card(result, benchmark, name, checkpoint, out, *run)}

    def _geometry(self, each: Training) -> dict[str, Any] | None:
        settings = self.config.geometry
        clips = _first(self._split(settings.split), settings.clips)
        return evaluate_geometry(
            each.export,
            tqdm(clips, desc=f"geometry {each.title}", unit="clip", leave=False),
            settings,
            device=self.accelerator.device,
            picture=self.folder / "pictures" / f"geometry_{each.title}.npz",
        )

    # --- parts ----------------------------------------------------------------------------

    def _load(self, checkpoint: Path | None = None) -> Any:
        """The recipe's backbone, or an exported checkpoint of it (stock, without adapters)."""
        component, device = self.config.backbone, self.accelerator.device
        if checkpoint is not None:
            return load_exported(checkpoint, component.cls, component.settings, device)
        return component.cls.load(component.settings).to(device)

    @cached_property
    def _benchmark(self) -> Any:
        return benchmark_of(self.config)

    def _build(self, each: Training) -> SpatialModel:
        """Backbone and priors of a training, initialised from the run's seed and the phase before it."""
        torch.manual_seed(self.config.seed)
        start = each.start
        backbone = self._load() if start is None else self._load_start(start.export)
        if self.config.scale.gradient_checkpointing != "none":
            backbone.set_gradient_checkpointing(self.config.scale.gradient_checkpointing)
        if self.config.scale.compile:
            backbone.compile_layers()
        priors = {name: prior.cls(prior.settings) for name, prior in each.priors.items()}
        model = SpatialModel(backbone, priors, each.trainer.language_weight)
        resumed = bool(Checkpoints(each.folder / CHECKPOINTS, "").complete())
        begin(model, start.export if start else None, resumed=resumed)
        return model.to(self.accelerator.device)  # an export runs it without an engine

    def _load_start(self, export: Path) -> Any:
        """The backbone in an export, to be trained further: adapters are put in anew."""
        verify_manifest(export)
        component = self.config.backbone
        settings = settings_at(component.settings, export)
        return component.cls.load(settings).to(self.accelerator.device)

    def _stream(self, each: Training) -> ClipStream:
        config = self.config
        geometry: ClipDataset = each.data.cls(each.data.settings).split("train", config.seed)
        if each.vqa:
            geometry = VqaClips(geometry, config.vqa.questions_per_clip, seed=config.seed)
        instruction = None
        if each.instruction is not None:
            source = each.instruction.cls(each.instruction.settings)
            instruction = source.split("train", config.seed)
            if hasattr(instruction, "keep_bad_in"):
                instruction.keep_bad_in(each.folder)
        return ClipStream(
            geometry,
            instruction,
            each.trainer.clips_per_step,
            each.trainer.instruction_share if instruction else 0.0,
        )

    def _split(self, name: str) -> ClipDataset:
        dataset = self.config.data.cls(self.config.data.settings)
        clips: ClipDataset = dataset.split(name, self.config.seed)
        return clips

    @cached_property
    def _val_clips(self) -> list[MultiViewClip]:
        return _first(self._split("val"), self.config.probe.val_clips)

    @cached_property
    def _test_clips(self) -> list[MultiViewClip]:
        return _first(self._split("test"), self.config.probe.test_clips)

    def _hash(self, each: Training) -> str:
        """Identifies what is trained, apart from hardware and from how it is looked at."""
        c = self.config
        content = {
            "seed": c.seed,
            "backbone": c.backbone.to_dict(),
            "vqa": plain(dataclasses.asdict(c.vqa)) if each.vqa else None,
            **each.content(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _first(clips: ClipDataset, count: int) -> list[MultiViewClip]:
    return [clips.clip(index).with_questions(()) for index in range(count)]
