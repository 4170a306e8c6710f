"""Plans against what is measured, and what a plan says of models nobody has downloaded."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.model import SpatialModel
from spatialprior.plan.cost import cost_of, lagrange_means
from spatialprior.plan.gpus import GPUS, Gpu
from spatialprior.plan.measured import measure_step
from spatialprior.plan.planner import Hardware, Planner, number_of_gpus, plan_run
from spatialprior.plan.published import PlanError
from spatialprior.plan.table import dict_of, text_of
from spatialprior.run.__main__ import main
from spatialprior.run.compose import compose_run
from spatialprior.train.optim import make_optimizer

FEW_ROOMS = ("data.train_rooms=8", "instruction.train_rooms=8")
SMALL = Hardware(2, "none", "none")


def run(*argv: str):
    return compose_run([*argv, "mode=plan"])


def measured(config):
    """A real step of a real nano on rooms."""
    torch.manual_seed(0)
    backbone = config.backbone.cls.load(config.backbone.settings)
    backbone.set_gradient_checkpointing(config.scale.gradient_checkpointing)
    priors = {name: prior.cls(prior.settings) for name, prior in config.priors.items()}
    model = SpatialModel(backbone, priors, config.trainer.language_weight).train()
    geometry, instruction = (
        source.cls(source.settings).split("train", 0)
        for source in (config.data, config.instruction)
    )
    trainer = config.trainer
    stream = ClipStream(geometry, instruction, trainer.clips_per_step, trainer.instruction_share)
    batches = step_batches(
        stream, backbone.encoder(), first_step=1, steps=2, micro_batch=config.scale.micro_batch
    )
    return measure_step(model, make_optimizer(model, trainer), next(iter(batches)))


@pytest.mark.parametrize(
    ("priors", "checkpointing"),
    [
        ("[gasp]", "none"),
        pytest.param("[]", "nonreentrant", marks=pytest.mark.slow),
        pytest.param("[gasp]", "nonreentrant", marks=pytest.mark.slow),
        pytest.param("[]", "none", marks=pytest.mark.slow),
    ],
)
def test_memory_and_flops_agree_with_a_real_step(priors, checkpointing):
    config = run(
        "recipe=gasp_qwen",
        f"prior={priors}",
        f"scale.gradient_checkpointing={checkpointing}",
        *FEW_ROOMS,
    )
    plan, real = plan_run(config), measured(config)
    assert plan.step.total_flops == pytest.approx(real.flops, rel=0.15)
    assert plan.total_memory == pytest.approx(real.memory, rel=0.15)


@pytest.mark.slow
def test_the_same_with_lora_and_kinds_of_clips_in_one_pass():
    config = run("backbone.lora.rank=8", "scale.micro_batch=6", *FEW_ROOMS)
    plan, real = plan_run(config), measured(config)
    assert plan.step.total_flops == pytest.approx(real.flops, rel=0.15)
    assert plan.total_memory == pytest.approx(real.memory, rel=0.15)


@pytest.fixture(scope="module")
def paper():
    """Qwen2.5-VL-7B as the paper trains it, with short clips to be quick."""
    return run(
        "size=paper", "scale=8gpu_fsdp2", "data.max_frames=9", "data.min_frames=9",
        "data.max_side=112", "instruction=null",
    )  # fmt: skip


@pytest.fixture(scope="module")
def planner(paper):
    return Planner(paper)


def test_a_plan_of_the_paper_needs_no_data_no_weights_and_counts_the_modules(paper):
    plan = plan_run(paper)
    counted = {owner: every for owner, (every, _) in plan.parameters.items()}
    stock = counted["vision"] + counted["embeddings"] + counted["decoder"]
    assert stock == 8_292_166_656
    # Per layer: rank x (in + out) of q, k, v, o, gate, up and down.
    widths = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert counted["lora"] == 28 * 128 * widths
    assert plan.parameters["lora"][1] == counted["lora"] and plan.parameters["decoder"][1] == 0
    head = 3584 + (3584 + 1) * 256 + (256 + 1) * 128
    assert counted["priors.gasp"] == 28 * head
    assert plan.gpus == 8 and plan.fits


@pytest.mark.slow
def test_frozen_weights_skip_their_gradients_and_checkpoints_run_the_decoder_again(planner):
    dealt = (("geometry", 1),)
    kept = planner.cost(dealt, SMALL, 1.0)
    again = planner.cost(dealt, dataclasses.replace(SMALL, checkpointing="nonreentrant"), 1.0)
    forward, backward = kept.flops["decoder", "forward"], kept.flops["decoder", "backward"]
    assert ("vision", "backward") not in kept.flops
    assert forward < backward < 1.3 * forward  # inputs' gradients, and LoRA's own on top
    assert kept.flops["attention", "backward"] == pytest.approx(
        2.5 * kept.flops["attention", "forward"]
    )
    assert ("decoder", "recompute") not in kept.flops
    assert again.flops["decoder", "recompute"] == pytest.approx(forward, rel=0.02)
    # Not less than half: autocast keeps a bfloat16 copy of LoRA's weights until the forward pass is over.
    assert again.memory["decoder"] < 0.5 * kept.memory["decoder"]


@pytest.mark.slow
def test_sharding_divides_weights_and_moments(planner):
    alone, shared = (
        planner.memory(dataclasses.replace(SMALL, sharding=kind)) for kind in ("none", "fsdp2")
    )
    for kind in ("weights, frozen (bfloat16)", "optimiser, AdamW's moments"):
        assert alone[kind] == pytest.approx(8 * shared[kind])
    assert "gathered weights" in shared and "gathered weights" not in alone
    assert sum(shared.values()) < sum(alone.values())


@pytest.mark.slow
def test_what_does_not_fit_is_told_what_would(monkeypatch):
    monkeypatch.setitem(GPUS, "tiny", Gpu("tiny", 1.0, 0.06, "made up"))
    plan = plan_run(run("plan.gpu=tiny"))
    assert not plan.fits and plan.fitting == Hardware(1, "none", "none")
    assert "DOES NOT FIT" in text_of(plan) and str(plan.fitting) in text_of(plan)
    monkeypatch.setitem(GPUS, "tiny", Gpu("tiny", 1.0, 0.04, "made up"))
    assert plan_run(run("plan.gpu=tiny")).fitting == Hardware(2, "nonreentrant", "none")
    monkeypatch.setitem(GPUS, "tiny", Gpu("tiny", 1.0, 0.001, "made up"))
    assert "nothing tried fits" in text_of(plan_run(run("plan.gpu=tiny")))


@pytest.mark.slow
def test_hours_follow_steps_pace_and_gpus():
    base = plan_run(run("prior=[]", "plan.gpus=2"))
    slower = plan_run(run("prior=[]", "plan.gpus=2", "plan.utilisation=0.2"))
    assert slower.gpu_hours == pytest.approx(2 * base.gpu_hours)
    assert slower.hours == pytest.approx(slower.step.total_flops * 900 / (989e12 * 0.2 * 2 * 3600))


def test_three_numbers_of_views_give_the_mean_of_all():
    weights = lagrange_means([8, 16, 24], range(8, 25))
    mean = sum(3 * n * n - 5 * n + 7 for n in range(8, 25)) / 17
    at = [3 * n * n - 5 * n + 7 for n in (8, 16, 24)]
    assert sum(w * v for w, v in zip(weights, at, strict=True)) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("argv", "gpus"),
    [
        (("scale=cpu",), 1), (("scale=1gpu",), 1), (("scale=8gpu_fsdp2",), 8),
        (("scale=multinode", "plan.gpus=32"), 32), (("scale=8gpu_fsdp2", "plan.gpus=4"), 4),
    ],
)  # fmt: skip
def test_number_of_gpus(argv, gpus):
    assert number_of_gpus(run(*argv)) == gpus


def test_several_nodes_must_say_how_many():
    with pytest.raises(PlanError, match=r"plan\.gpus=N"):
        number_of_gpus(run("scale=multinode"))


@pytest.mark.slow
def test_a_prior_that_looks_at_values_is_named_in_one_line(planner, monkeypatch):
    def losses(self, taps, context):
        return [taps.popitem()[1].detach().sum().item()]

    monkeypatch.setattr(type(planner.model.injectors["gasp"]), "losses", losses)
    work = planner.works[0]
    batch = planner._encoder([work.clip(2, "is")])
    with pytest.raises(PlanError, match="needs values") as caught:
        cost_of(planner.model, batch)
    assert "\n" not in str(caught.value)


def test_the_command_prints_a_page_and_writes_json(tmp_path, capsys):
    out = tmp_path / "deep" / "plan.json"
    assert main(["mode=plan", "prior=[]", f"plan.out={out}"]) == 0
    page = capsys.readouterr().out
    for heading in ("PARAMETERS", "MEMORY", "FLOPs", "STEP", "TIME", "FITS"):
        assert heading in page
    assert len(page.splitlines()) < 60
    record = json.loads(out.read_text())
    assert record["fits"] is True and record["parameters"]["decoder"]["all"] == 303_040
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["backbone.path=Qwen/Qwen2.5-VL-7B"], "did you mean Qwen/Qwen2.5-VL-7B-Instruct?"),
        (["backbone.path=llava-hf/LLaVA-NeXT-Video-7B-hf"], "choose the backbone of its family"),
        (["plan.gpu=h300"], "plan.gpu=h300: choose from"),
        (["scale=multinode"], "plan.gpus=N"),
        (["plan.utilisation=40"], "plan.utilisation=40"),
    ],
)
def test_what_cannot_be_planned_is_one_line(argv, said, capsys):
    assert main(["mode=plan", *argv]) != 0
    line = capsys.readouterr().err.strip()
    assert said in line and "\n" not in line


def test_dict_of_is_plain():
    record = dict_of(plan_run(run("prior=[]")))
    assert json.loads(json.dumps(record)) == record
