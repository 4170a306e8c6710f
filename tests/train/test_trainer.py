"""The training loop: accumulation, resume after SIGKILL, refusals, the log."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spatialprior.backbones.lora import LoraOptions, inject
from spatialprior.core.injector import MissingClipFieldError
from spatialprior.core.terms import NonFiniteLossError
from spatialprior.data.stream import ClipStream, step_batches
from spatialprior.model import SpatialModel
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.testing import DummyObserver, plane_clip, tiny_backbone
from spatialprior.train.accelerator import make_accelerator
from spatialprior.train.checkpoint import CheckpointError
from spatialprior.train.config import ScaleConfig, TrainerConfig
from spatialprior.train.log import read_log
from spatialprior.train.trainer import Trainer

ANSWERS = ("yes", "a big red chair near the lamp", "2")


class Planes:
    """Clips with unlike numbers of views, visible anchors and answer tokens."""

    def __init__(self, bare=False):
        self.bare = bare

    def __len__(self):
        return 8

    def clip(self, index):
        questions = [("How?", ANSWERS[(index + k) % 3]) for k in range(1 + index % 2)]
        clip = plane_clip(f"plane-{index}", num_views=2 + index % 2, questions=questions)
        valid = clip.depth_valid.clone()
        valid[..., : 12 * (index % 4)] = False
        clip = dataclasses.replace(clip, depth_valid=valid)
        return dataclasses.replace(clip, depth=None) if self.bare else clip


def make_trainer(
    folder, *, prior=None, lora=None, recipe_hash="abc", micro_batch=4, geometry=None, **config
):
    torch.manual_seed(0)
    backbone = tiny_backbone()
    if lora:
        inject(backbone.hf, backbone.decoder_layers, lora)
    prior = prior or Gasp(Gasp.Config(embedding_dim=8, anchors=[4], layers=[1, 3]))
    settings = {"steps": 3, "clips_per_step": 4, "learning_rate": 1e-3, **config}
    stream = ClipStream(geometry or Planes(), None, settings["clips_per_step"])
    scale = ScaleConfig(device="cpu", micro_batch=micro_batch)
    return Trainer(
        SpatialModel(backbone, {"gasp": prior}, settings.get("language_weight", 1.0)),
        stream,
        TrainerConfig(**settings),
        scale,
        make_accelerator(scale),
        folder,
        recipe_hash=recipe_hash,
    )


# --- accumulation -----------------------------------------------------------------------------


def trained(folder, **options):
    trainer = make_trainer(folder, **options)
    trainer.run()
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    return weights, list(read_log(folder / "log.jsonl"))


def first_gradients(folder, micro_batch):
    """Gradients of the first step, clipped, as the optimiser sees them."""
    trainer = make_trainer(folder, micro_batch=micro_batch, steps=1)
    engine, _ = trainer.engine()
    named = dict(trainer.model.named_parameters())
    seen = {}
    engine.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in named.items() if p.grad is not None})
    )
    encoder = trainer.model.backbone.encoder()
    batches = step_batches(trainer.stream, encoder, first_step=0, steps=1, micro_batch=micro_batch)
    trainer._step(next(batches), engine)
    return seen


def test_micro_batches_do_not_change_the_run(tmp_path):
    # AdamW turns rounding noise of nearly zero gradients into steps of the learning rate, so it is small here;
    # the gradients themselves are compared below.
    options = {"steps": 2, "learning_rate": 1e-4}
    wanted, log = trained(tmp_path / "4", micro_batch=4, **options)
    wanted_gradients = first_gradients(tmp_path / "g4", 4)
    for micro_batch in (1, 2, 3):
        weights, other = trained(tmp_path / str(micro_batch), micro_batch=micro_batch, **options)
        for name, tensor in wanted.items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-5, msg=name)
        for mine, theirs in zip(other, log, strict=True):
            for key in ("loss", "raw/language", "raw/gasp/corr", "raw/gasp/depth", "grad_norm"):
                assert mine[key] == pytest.approx(theirs[key], rel=1e-4), key
        gradients = first_gradients(tmp_path / f"g{micro_batch}", micro_batch)
        for name, tensor in wanted_gradients.items():
            scale = float(tensor.abs().max())
            torch.testing.assert_close(gradients[name], tensor, rtol=0, atol=1e-5 * scale, msg=name)


def test_the_clips_are_unequal_enough_to_tell_a_mean_of_means():
    """Guards the test above: with plain averaging over micro-batches it would fail."""
    model = make_trainer(Path("unused")).model
    encode = model.backbone.encoder()
    batches = [encode([Planes().clip(i)]) for i in range(4)]
    terms = [{t.name: t for t in model(batch)} for batch in batches]
    for name in ("language", "gasp/corr", "gasp/depth"):
        parts = [t[name] for t in terms]
        true = sum(float(p.sum.detach()) for p in parts) / sum(p.count for p in parts)
        naive = sum(float(p.mean.detach()) for p in parts) / 4
        assert abs(true - naive) > 1e-3 * abs(true), name


# --- resume -----------------------------------------------------------------------------------

STEPS = 7
FORK = multiprocessing.get_context("fork")


def train_in_child(folder, kill=None):
    """``kill``: a step to die after, or ``"saving"`` to die with a checkpoint half written."""
    # Random anchors and dropout: the resumed run must also draw the same numbers.
    trainer = make_trainer(
        folder,
        prior=Gasp(Gasp.Config(embedding_dim=8, anchors=[4], layers=[1, 3], max_anchors=5)),
        lora=LoraOptions(rank=2, alpha=4, dropout=0.3),
        steps=STEPS,
        clips_per_step=2,
        micro_batch=1,
        checkpoint_every=2,
    )

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if kill == "saving":
        save = type(trainer.checkpoints).save

        def half(self, step, *rest):
            if step == 4:
                from spatialprior.train import checkpoint

                checkpoint.os.replace = die
            return save(self, step, *rest)

        type(trainer.checkpoints).save = half
    trainer.run(on_step=lambda step: die() if step == kill else None)


def child(folder, kill=None):
    process = FORK.Process(target=train_in_child, args=(folder, kill))
    process.start()
    return process


def final_bytes(folder):
    last = folder / "checkpoints" / f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in sorted(last.iterdir())}


def curve(folder):
    skip = ("seconds", "peak_rss_bytes")
    lines = list(read_log(folder / "log.jsonl"))
    return [{k: v for k, v in line.items() if k not in skip} for line in lines]


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    plain = child(tmp_path / "plain")
    plain.join()
    assert plain.exitcode == 0
    killed = tmp_path / "killed"
    for kill in (1, 3, "saving"):  # before any checkpoint, between two, and within one
        process = child(killed, kill)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert any(p.name.startswith(".writing-") for p in (killed / "checkpoints").iterdir())
    process = child(killed)  # and once more, at no particular moment
    time.sleep(random.uniform(0.1, 0.8))
    process.kill()
    process.join()
    process = child(killed)
    process.join()
    assert process.exitcode == 0
    assert final_bytes(killed) == final_bytes(tmp_path / "plain")
    assert [line["step"] for line in curve(killed)] == list(range(1, STEPS + 1))
    assert curve(killed) == curve(tmp_path / "plain")
    assert not any(p.name.startswith(".writing-") for p in (killed / "checkpoints").iterdir())


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    make_trainer(tmp_path, steps=2).run()
    before = (tmp_path / "log.jsonl").read_bytes()
    seen = []
    result = make_trainer(tmp_path, steps=2).run(on_step=seen.append)
    assert result.resumed_from == 2 and not seen
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_checkpoints_of_another_recipe_or_model_are_refused(tmp_path):
    make_trainer(tmp_path, steps=1).run()
    with pytest.raises(
        CheckpointError, match=r"other settings \(recipe hash abc, this run has xyz\)"
    ):
        make_trainer(tmp_path, recipe_hash="xyz").run()
    other = make_trainer(tmp_path, prior=DummyObserver(DummyObserver.Config()))
    with pytest.raises(
        CheckpointError, match=r"does not fit this model; first difference: priors\.gasp"
    ):
        other.run()


def test_checkpoints_hold_no_pickle_and_old_ones_go(tmp_path):
    make_trainer(tmp_path, steps=4, clips_per_step=1, checkpoint_every=1).run()
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000003", "step-00000004"]
    names = {p.name for p in (folder / "step-00000004").iterdir()}
    assert names == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }
    assert json.loads((folder / "step-00000004/state.json").read_text())["step"] == 4
    moments = load_file(folder / "step-00000004/optimizer.safetensors")
    assert {key.rsplit("/", 1)[1] for key in moments} == {"exp_avg", "exp_avg_sq", "step"}


# --- refusals ---------------------------------------------------------------------------------


class Broken(DummyObserver):
    """Its term turns NaN on one clip."""

    def losses(self, taps, context):
        (term,) = super().losses(taps, context)
        bad = int(context.valid.sum()) == 3 * 64  # the clips of three views
        return [dataclasses.replace(term, sum=term.sum * float("nan") if bad else term.sum)]


class BrokenGradient(DummyObserver):
    """Finite loss, infinite gradient."""

    def losses(self, taps, context):
        (term,) = super().losses(taps, context)
        return [dataclasses.replace(term, sum=term.sum + (term.sum * 0).sqrt())]


def test_a_non_finite_loss_names_term_and_clips(tmp_path):
    trainer = make_trainer(tmp_path, prior=Broken(Broken.Config()), micro_batch=1)
    with pytest.raises(NonFiniteLossError, match=r"gasp/energy is nan on clips plane-1;"):
        trainer.run()


def test_a_non_finite_gradient_does_not_reach_the_weights(tmp_path):
    trainer = make_trainer(tmp_path, prior=BrokenGradient(BrokenGradient.Config()))
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    with pytest.raises(NonFiniteLossError, match=r"gradient norm is (nan|inf).*plane-0, plane-1"):
        trainer.run()
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())


def test_data_without_geometry_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(MissingClipFieldError, match=r"'gasp' needs depth, which clip plane-0"):
        make_trainer(tmp_path, geometry=Planes(bare=True)).run()


# --- log and optimiser ------------------------------------------------------------------------


def test_every_term_is_logged_raw_and_weighted(tmp_path):
    prior = Gasp(Gasp.Config(embedding_dim=8, anchors=[4], corr_weight=0.5, depth_weight=2.0))
    make_trainer(tmp_path, prior=prior, language_weight=0.25, steps=2).run()
    lines = list(read_log(tmp_path / "log.jsonl"))
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        weights = {"language": 0.25, "gasp/corr": 0.5, "gasp/depth": 2.0}
        for name, weight in weights.items():
            assert line[f"weighted/{name}"] == pytest.approx(weight * line[f"raw/{name}"])
        assert line["loss"] == pytest.approx(sum(line[f"weighted/{name}"] for name in weights))
        assert line["lr/priors.gasp"] == pytest.approx(4 * line["lr/backbone"])
        assert line["grad_norm"] > 0 and line["seconds"] > 0 and line["peak_rss_bytes"] > 2**20


def test_a_torn_last_line_of_the_log_is_dropped(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert list(read_log(tmp_path / "log.jsonl")) == [{"step": 1}]


def test_gradient_clipping_bounds_the_step(tmp_path):
    trainer = make_trainer(tmp_path, grad_clip=0.01, steps=1)
    engine, _ = trainer.engine()
    seen = []
    engine.optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append(
            torch.stack(
                [p.grad.norm() for g in opt.param_groups for p in g["params"] if p.grad is not None]
            ).norm()
        )
    )
    encode = trainer.model.backbone.encoder()
    _, norm = trainer._step([encode([Planes().clip(0)])], engine)
    assert norm > 0.01 and float(seen[0]) == pytest.approx(0.01, rel=1e-3)
