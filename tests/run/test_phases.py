"""Trainings that come before the recipe's own: order, what is handed over, resume, sharing, refusals."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spatialprior.core.backbone import Backbone
from spatialprior.core.batch import ClipBatch
from spatialprior.core.injector import ExportMode, Needs, PriorInjector
from spatialprior.core.sites import VISUAL_TOKENS, Site, Taps, residual_out
from spatialprior.core.terms import LossTerm
from spatialprior.export import load_export
from spatialprior.export.handover import take_over
from spatialprior.export.manifest import ExportError
from spatialprior.model import SpatialModel
from spatialprior.registry import INJECTORS
from spatialprior.run.arms import arms_of, trainings_of
from spatialprior.run.checks import check_run
from spatialprior.run.compose import compose_run, load_run
from spatialprior.run.errors import RunError, is_expected
from spatialprior.run.pipeline import Pipeline, run_folder
from spatialprior.run.plan import plan
from spatialprior.testing import tiny_backbone
from spatialprior.train.trainer import Trainer


class Shift(PriorInjector):
    """Adds a learned map of the visual tokens to them, and predicts their mean from a decoder layer.

    With ``stage=alone`` the backbone is frozen and only the prediction trains it.
    """

    export_mode = ExportMode.KEEP

    @dataclass
    class Config:
        stage: str = "joint"
        width: int = 0

    config: Config
    clip_fields: ClassVar[tuple[str, ...]] = ("depth",)

    def needs(self, num_layers: int) -> Needs:
        return Needs((residual_out(1),), (VISUAL_TOKENS,), self.clip_fields)

    def attach(self, backbone: Backbone) -> None:
        width = backbone.hidden_size
        self.site = residual_out(1)
        self.map = nn.Linear(width, width + self.config.width)
        self.head = nn.Linear(width, 1)
        if self.config.stage == "alone":
            backbone.requires_grad_(False)

    def edit(self, site: Site, tokens: Tensor, context: Any) -> Tensor:
        return tokens + 0.1 * self.map(tokens)[..., : tokens.shape[-1]]

    def prepare(self, batch: ClipBatch) -> Any:
        return batch.token_map

    def counts(self, context: Any) -> dict[str, float]:
        return {"mean": float(context.valid.sum())}

    def losses(self, taps: Taps, context: Any) -> list[LossTerm]:
        found = self.head(context.gather(taps[self.site]))
        return [LossTerm("mean", (found - 1).square().sum(), self.counts(context)["mean"])]


class Loose(Shift):
    """The same, dropped at export."""

    export_mode = ExportMode.DISCARD


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        INJECTORS.names()  # entry points first: the copy below must hold them
        patch.setattr(INJECTORS, "_entries", dict(INJECTORS._entries))
        patch.setattr(INJECTORS, "_loaded", dict(INJECTORS._loaded))
        INJECTORS.add("shift", Shift)
        INJECTORS.add("loose", Loose)
        yield


ROOMS = ["train_rooms=2", "val_rooms=2", "test_rooms=2", "frames_per_room=4", "window=3"]
WARM = "{trainer: {learning_rate: 1.0e-2, steps: 3}, priors: {shift: {stage: alone}}, instruction: null, "
WARM += "data: {questions_per_clip: 0}}"
JOIN = "{trainer: {learning_rate: 1.0e-3}}"
PHASES = f"phases={{warm: {WARM}, join: {JOIN}}}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, nano_folder: Path) -> list[str]:
    base = tmp_path_factory.mktemp("phases")
    return [
        "recipe=sft_qwen",
        "priors={shift: {kind: shift}, loose: {kind: loose}}",
        "control=none",
        "eval=null",
        "probe.test_clips=0",
        "trainer.steps=2",
        "trainer.clips_per_step=2",
        "trainer.checkpoint_every=1",
        *(f"{source}.{setting}" for source in ("data", "instruction") for setting in ROOMS),
        *(f"{source}.cache_dir={base}/cache" for source in ("data", "instruction")),
        *(f"{source}.render_workers=0" for source in ("data", "instruction")),
        f"backbone.path={nano_folder}",
        f"output_root={base}/runs",
    ]


def finished(argv: list[str]) -> Path:
    config = compose_run(argv)
    folder = run_folder(config)
    Pipeline(config, folder).run()
    return folder


@pytest.fixture(scope="module")
def whole(world: list[str]) -> Path:
    return finished([*world, PHASES])


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def kept(export: Path, prior: str = "shift") -> dict[str, Tensor]:
    return load_file(export / "priors" / f"{prior}.safetensors")


def weights(export: Path) -> dict[str, Tensor]:
    return load_export(export)[0].state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


# --- the path ----------------------------------------------------------------------------------------


def test_phases_come_in_order_each_with_its_own_folder_and_stages(whole: Path) -> None:
    stages = sorted((whole / "stages").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.stem for path in stages] == [
        "export.before",
        *(f"{stage}.after.{phase}" for phase in ("warm", "join") for stage in ("train", "export")),
        "train.after",
        "export.after",
    ]
    for phase in ("warm", "join"):
        names = {path.name for path in (whole / "phases" / phase).iterdir()}
        assert names == {"log.jsonl", "checkpoints", "export"}
    report = json.loads((whole / "report.json").read_text())
    assert {"train.after.warm", "export.after.join", "train.after"} <= report["seconds"].keys()
    assert list(report["config"]["phases"]) == ["warm", "join"]


def test_a_phase_is_the_recipe_with_its_changes(whole: Path) -> None:
    warm, join, last = log(whole / "phases" / "warm"), log(whole / "phases" / "join"), log(whole)
    assert [len(lines) for lines in (warm, join, last)] == [3, 2, 2]
    assert max(line["lr/priors.shift"] for line in warm) == 1e-2
    assert max(line["lr/priors.shift"] for line in join) == 1e-3
    # A frozen backbone and clips without questions: only the priors' terms, and only they have a rate.
    assert not any(key.endswith(("backbone", "language")) for line in warm for key in line)
    assert all("lr/backbone" in line and "raw/language" in line for line in (*join, *last))


def test_the_frozen_phase_leaves_the_backbone_as_it_was_and_the_others_do_not(whole: Path) -> None:
    before, warm = weights(whole / "before" / "export"), weights(whole / "phases/warm/export")
    assert same(before, warm)
    assert not same(warm, weights(whole / "phases/join/export"))


def test_each_training_starts_bitwise_from_the_export_before_it(whole: Path) -> None:
    pipeline = Pipeline(load_run(whole / "recipe.yaml"), whole)
    warm, join, last = trainings_of(pipeline.arms)
    fresh = pipeline._build(warm).injectors
    for earlier, later in ((warm, join), (join, last)):
        assert later.start == earlier
        model = pipeline._build(later)
        assert same(model.backbone.hf.state_dict(), weights(earlier.export))
        assert same(model.injectors["shift"].state_dict(), kept(earlier.export))
        assert not same(model.injectors["shift"].state_dict(), fresh["shift"].state_dict())
        # One that leaves nothing behind starts as it did.
        assert same(model.injectors["loose"].state_dict(), fresh["loose"].state_dict())
    assert not same(kept(join.export), kept(last.export))


@pytest.mark.slow
def test_a_run_killed_within_each_phase_ends_with_the_same_weights(
    whole: Path, world: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_run([*world, PHASES])
    folder = run_folder(config)
    train = Trainer.run
    stopped: list[str] = []

    def stop_after_a_step(trainer: Trainer, on_step: Any = None) -> Any:
        def step(done: int) -> None:
            if done == 1:
                stopped.append(trainer.label)
                raise KeyboardInterrupt

        return train(trainer, step)

    monkeypatch.setattr(Trainer, "run", stop_after_a_step)
    for _ in range(
        3
    ):  # each gets through the training that the one before left, and stops in the next
        with pytest.raises(KeyboardInterrupt):
            Pipeline(config, folder).run()
    assert stopped == ["train warm", "train join", "train after"]
    monkeypatch.setattr(Trainer, "run", train)
    Pipeline(compose_run([f"resume={folder}"]), folder).run()
    for export in ("phases/warm/export", "phases/join/export", "export"):
        assert same(weights(folder / export), weights(whole / export))
        assert same(kept(folder / export), kept(whole / export))


@pytest.mark.slow
def test_a_finished_run_exports_again_to_the_same_weights(whole: Path) -> None:
    wanted = {export: weights(whole / export) for export in ("phases/join/export", "export")}
    Pipeline(compose_run([f"resume={whole}", "mode=export"]), whole).run()
    for export, tensors in wanted.items():
        assert same(weights(whole / export), tensors)


@pytest.mark.slow
def test_adapters_are_merged_between_phases_and_put_in_anew(world: list[str]) -> None:
    folder = finished([*world, f"phases={{join: {JOIN}}}", "backbone.lora.rank=2"])
    pipeline = Pipeline(load_run(folder / "recipe.yaml"), folder)
    join, last = trainings_of(pipeline.arms)
    backbone: Any = pipeline._build(last).backbone
    assert len(backbone.adapted) == 4 * 7
    merged = weights(join.export)
    assert same(backbone.stock_state_dict(), merged)
    assert not same(merged, weights(folder / "before" / "export"))
    assert not same(merged, weights(last.export))


@pytest.mark.slow
def test_a_kept_prior_that_is_published_goes_along(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path))
    phases = "phases={noisy: {priors: {vega3d: {source: noise}}}}"
    argv = [w for w in world if not w.startswith(("priors=", "recipe="))]
    folder = finished(["recipe=gasp_qwen", "prior=[vega3d]", "size=nano", *argv, phases])
    pipeline = Pipeline(load_run(folder / "recipe.yaml"), folder)
    noisy, last = trainings_of(pipeline.arms)
    found = pipeline._build(last).injectors["vega3d"]
    assert found.config.source == "encoder"
    assert same(found.state_dict(), kept(noisy.export, "vega3d"))


# --- which arms ----------------------------------------------------------------------------------------


ARMS = "arms={later: {shift: {stage: late}}, loosely: {loose: {stage: other}}}"


def test_a_shared_phase_is_trained_once(world: list[str]) -> None:
    later = "arms={later: {shift: {stage: late}}}"
    folder = finished([*world, "trainer.steps=1", later, f"phases={{warm: {WARM}}}"])
    trained = {path.stem for path in (folder / "stages").glob("train.*")}
    assert trained == {"train.after.warm", "train.after", "train.later"}
    assert not (folder / "later" / "phases").exists()


def test_arms_share_a_phase_that_is_the_same_for_both(world: list[str], tmp_path: Path) -> None:
    config = compose_run([*world, "control=sft", ARMS, f"phases={{warm: {WARM}}}"])
    trainings = trainings_of(arms_of(config, tmp_path))
    # ``warm`` overrules what ``later`` changes, and not what ``loosely`` changes.
    names = ["after/warm", "after", "control", "later", "loosely/warm", "loosely"]
    assert [each.name for each in trainings] == names
    assert [each.title for each in trainings if each.phase] == ["warm", "loosely.warm"]
    by_name = {each.name: each for each in trainings}
    assert by_name["later"].start == by_name["after/warm"] == by_name["after"].start
    assert by_name["control"].start is None
    assert by_name["after/warm"].folder == tmp_path / "phases" / "warm"
    assert by_name["loosely/warm"].folder == tmp_path / "loosely" / "phases" / "warm"


def test_a_phase_behind_another_one_is_not_shared(world: list[str], tmp_path: Path) -> None:
    """``join`` alone would be the same for all arms; what it starts from is not."""
    stages = "shift: {stage: joint}, loose: {stage: joint}"
    changes = f"{JOIN[:-1]}, priors: {{{stages}}}}}"
    config = compose_run([*world, ARMS, f"phases={{warm: {WARM}, join: {changes}}}"])
    names = [each.name for each in trainings_of(arms_of(config, tmp_path)) if each.phase]
    assert names == ["after/warm", "after/join", "loosely/warm", "loosely/join"]


def test_order_is_kept_and_counts(world: list[str]) -> None:
    one, other = (
        compose_run([*world, f"phases={{{pair}}}"])
        for pair in (f"a: {JOIN}, b: {WARM}", f"b: {WARM}, a: {JOIN}")
    )
    assert list(load_run(run_folder(one) / "recipe.yaml").phases) == ["a", "b"]
    prints = {c.fingerprint() for c in (one, other, compose_run(world))}
    assert len(prints) == 3


def test_a_phase_with_instructions_of_its_own_takes_the_sizes_settings(world: list[str]) -> None:
    argv = [w for w in world if not w.startswith("instruction.")]
    config = compose_run(
        [*argv, "instruction=null", "phases={a: {instruction: {kind: rooms, window: 2}}}"]
    )
    arm = arms_of(config, Path())[0]
    assert arm.instruction is None and arm.start is not None
    settings = arm.start.instruction.settings
    assert settings.window == 2 and settings.tasks != ["all"]


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["phases={a: {trainr: {steps: 1}}}"], r"unknown setting phases\.a\.trainr; did you mean"),
        (["phases={a: {trainer: {stps: 1}}}"], r"mean phases\.a\.trainer\.steps"),
        (["phases={a: {trainer: {steps: 0}}}"], r"phases\.a\.trainer: .*steps=0"),
        (["phases={a: {priors: {gsap: {}}}}"], r"phases\.a\.priors\.gsap: this run's priors are"),
        (["phases={a: {priors: {shift: {stag: x}}}}"], r"mean phases\.a\.priors\.shift\.stage"),
        (["phases={a: {priors: {shift: {kind: loose}}}}"], r"shift\.kind=loose: .*is a shift"),
        (["phases={a: {data: {windw: 2}}}"], r"mean phases\.a\.data\.window"),
        (["phases={a: {instruction: {windw: 2}}}"], r"mean phases\.a\.instruction\.window"),
        (["phases={a: {scale: {micro_batch: 1}}}"], r"phases\.a\.scale cannot change"),
        (["phases={a: {backbone: {path: x}}}"], r"phases\.a\.backbone cannot change"),
        (["phases={a: 3}"], r"phases\.a=3: expected a mapping"),
        (["phases={a: {}}", "priors={}"], r"phases \(a\).*has none: add phases=\{\}"),
        (["phases={a: {}}", "vqa.enabled=true"], r"vqa\.enabled=true takes none"),
        *(
            ([f"phases={{{name}: {{}}}}"], rf"phases\.{name}: this name is taken")
            for name in ("before", "after", "control")
        ),
        (["phases={x: {}}", "arms={x: {shift: {}}}"], r"phases\.x: this name is taken"),
        (["phases={x: {}}", "inference_arms={x: {shift: {}}}"], r"phases\.x: this name is taken"),
        (["arms={phases: {shift: {}}}"], r"arms\.phases: this name is taken"),
        (["phases={../x: {}}"], r"phases\.\.\./x: a name is of letters"),
        (["phases={a: {}}", "scale.sharding=zero3"], r"has 2: add control=none and phases=\{\}"),
        (["phases={a: {trainer: {clips_per_step: 3}}}"], r"phases\.a\.trainer\.clips_per_step=3"),
        (
            ["phases={a: {data: {kind: posed_rgbd, root: /nowhere}}}"],
            r"phases\.a\.data.*/nowhere",
        ),
        (
            [
                "priors={vega3d: {kind: vega3d}}",
                "phases={a: {data: {questions_per_clip: 0}, instruction: null}}",
            ],
            r"phases\.a has nothing to learn",
        ),
    ],
)
def test_what_cannot_be_is_one_line_before_any_weight_loads(
    typed: list[str], message: str, world: list[str]
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        check_run(compose_run([*world, *typed]), 2, torch.device("cpu"))
    assert is_expected(caught.value) and "\n" not in str(caught.value)


def test_a_resumed_run_keeps_its_phases(whole: Path) -> None:
    with pytest.raises(Exception, match=r"phases\.warm\.trainer\.steps cannot change in a resumed"):
        compose_run([f"resume={whole}", "phases.warm.trainer.steps=9"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"shift": Shift.Config(width=3)},
            r"do not fit .*map\.bias is \[64\] there and \[67\] here",
        ),
        ({"shift": None}, r"prior 'shift' is a shift, and here it is a loose"),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(
    settings: dict[str, Any], message: str, whole: Path
) -> None:
    config = settings["shift"]
    prior = Shift(config) if config else Loose(Loose.Config())
    with pytest.raises(ExportError, match=message) as caught:
        take_over(SpatialModel(tiny_backbone(), {"shift": prior}), whole / "phases/warm/export")
    assert "\n" not in str(caught.value)


def test_a_changed_export_of_a_phase_is_not_trained_on(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    path = folder / "phases/join/export/priors/shift.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    pipeline = Pipeline(load_run(folder / "recipe.yaml"), folder)
    with pytest.raises(ExportError, match=re.escape("shift.safetensors is changed")):
        pipeline._build(trainings_of(pipeline.arms)[-1])


def test_a_plan_says_that_phases_are_not_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spatialprior.run.plan.plan_run", lambda config: None)
    monkeypatch.setattr("spatialprior.run.plan.text_of", lambda found: "")
    plan(compose_run(["mode=plan", "recipe=gasp_qwen", "phases={warm: {}, join: {}}"]))
    assert "Not planned: the phases before it (warm, join)" in capsys.readouterr().out
    with pytest.raises(Exception, match=r"unknown setting phases\.warm\.trainr"):
        plan(compose_run(["mode=plan", "recipe=gasp_qwen", "phases={warm: {trainr: {}}}"]))


def test_steps_must_divide_among_processes_in_every_phase(world: list[str]) -> None:
    config = compose_run([*world, "phases={a: {trainer: {clips_per_step: 3}}}"])
    check_run(config, 1, torch.device("cpu"))
    with pytest.raises(RunError, match="does not divide among 2"):
        check_run(config, 2, torch.device("cpu"))
