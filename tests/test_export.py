"""Exported folders: stock, identical, complete, and honest about later changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spatialprior.backbones.lora import LoraOptions
from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.injector import ExportMode, Needs, PriorInjector
from spatialprior.core.sites import VISUAL_TOKENS, residual_out
from spatialprior.eval.evaluator import load_exported
from spatialprior.eval.generate_packed import generate_packed
from spatialprior.export import (
    MANIFEST,
    ExportError,
    export_model,
    load_export,
    load_model,
    verify_manifest,
)
from spatialprior.model import SpatialModel
from spatialprior.registry import INJECTORS
from spatialprior.testing import plane_clip


class Head(PriorInjector):
    """A prior with weights of its own, as GASP's heads."""

    @dataclass
    class Config:
        pass

    def needs(self, num_layers: int) -> Needs:
        return Needs(taps=(residual_out(0),))

    def attach(self, backbone: Any) -> None:
        self.proj = torch.nn.Linear(backbone.hidden_size, 4)


class Keeper(PriorInjector):
    """Scales the visual tokens, at inference too."""

    export_mode = ExportMode.KEEP
    weights = "first"

    @dataclass
    class Config:
        bias: float = 0.5

    def needs(self, num_layers: int) -> Needs:
        return Needs(edits=(VISUAL_TOKENS,))

    def attach(self, backbone: Any) -> None:
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 2, backbone.hidden_size))

    def edit(self, site: Any, tokens: torch.Tensor, context: Any) -> torch.Tensor:
        return tokens * self.scale + self.config.bias

    def provenance(self) -> dict[str, str]:
        return {"weights": self.weights}


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> type[Keeper]:
    """Known by name, as an installed one is, for one test."""
    INJECTORS.names()
    monkeypatch.setattr(INJECTORS, "_entries", dict(INJECTORS._entries))
    monkeypatch.setattr(INJECTORS, "_frozen", False)
    INJECTORS.add("keeper", Keeper)
    return Keeper


def make(nano_folder: Path, lora: LoraOptions | None = None, prior: type = Head) -> SpatialModel:
    torch.manual_seed(3)
    backbone = Qwen2_5VL.load(Qwen2_5VL.Config(path=str(nano_folder), lora=lora))
    with torch.no_grad():  # weights that no folder holds yet
        for name, p in backbone.named_parameters():
            if "q_proj" in name or "lora_B" in name:
                p.add_(0.05 * torch.randn_like(p))
    return SpatialModel(backbone, {"head": prior(prior.Config())})


@pytest.fixture(scope="module")
def exported(nano_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "export"
    export_model(make(nano_folder), folder, recipe_hash="abc123")
    return folder


def test_export_is_stock_and_leaves_the_model_alone(nano_folder: Path, tmp_path: Path) -> None:
    model = make(nano_folder)
    model.train()
    model.priors["head"].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    report = export_model(model, tmp_path / "export", recipe_hash="abc123")
    assert report.is_stock
    assert report.identical_logits and report.max_difference == 0
    assert report.adapter_difference is None
    assert report.parameters == sum(p.numel() for p in model.backbone.parameters())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], t) for name, t in before.items())
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    json.dumps(report.to_dict())

    manifest = verify_manifest(tmp_path / "export")
    assert manifest["recipe_hash"] == "abc123"
    assert manifest["priors"] == {"head": {"kind": "Head", "export": "discard"}}
    hf, processor = load_export(tmp_path / "export")
    assert torch.equal(
        hf.get_parameter("model.language_model.layers.0.self_attn.q_proj.weight"),
        model.backbone.hf.get_parameter("model.language_model.layers.0.self_attn.q_proj.weight"),
    )
    assert not any("head" in name for name, _ in hf.named_parameters() if "lm_head" not in name)
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_lora_is_merged(nano_folder: Path, tmp_path: Path) -> None:
    model = make(nano_folder, lora=LoraOptions(rank=4, alpha=8, dropout=0.1))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = export_model(model, tmp_path / "export", recipe_hash="x")
    assert report.is_stock
    assert report.adapter_difference is not None and report.adapter_difference < 1e-3
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    # The merged update is really there: the export is not the folder that was loaded.
    old = load_file(nano_folder / "model.safetensors")
    new = load_file(tmp_path / "export" / "model.safetensors")
    assert old.keys() == new.keys()
    key = next(key for key in old if key.endswith("layers.0.mlp.up_proj.weight"))
    assert not torch.equal(old[key], new[key])


def test_replaces_an_export_but_nothing_else(
    nano_folder: Path, exported: Path, tmp_path: Path
) -> None:
    target = tmp_path / "export"
    shutil.copytree(exported, target)
    (target / "stray.txt").write_text("from an older version")
    export_model(make(nano_folder), target, recipe_hash="second")
    assert verify_manifest(target)["recipe_hash"] == "second"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("x")
    with pytest.raises(ExportError, match="is not an export"):
        export_model(make(nano_folder), other, recipe_hash="x")
    assert (other / "chapter.tex").exists()


def test_keep_mode_is_refused_by_name(nano_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"prior 'head' stays in the export.*register Keeper"):
        export_model(make(nano_folder, prior=Keeper), tmp_path / "export", recipe_hash="x")
    assert not list(tmp_path.iterdir())


def test_a_kept_prior_ships_beside_a_stock_checkpoint(
    nano_folder: Path, tmp_path: Path, keeper: type[Keeper]
) -> None:
    model = make(nano_folder, prior=keeper)
    folder = tmp_path / "export"
    report = export_model(model, folder, recipe_hash="x")
    assert report.is_stock, "the checkpoint itself is stock"
    assert report.kept is not None and report.kept["kept"] == ["head"]
    assert report.kept["identical_logits"] and report.kept["changes_logits"]
    assert report.kept["kept_parameters"] == model.backbone.hidden_size
    hf, _ = load_export(folder)
    assert not any("scale" in name for name, _ in hf.named_parameters())
    assert "Inference has changed" in (folder / "README.md").read_text()

    loaded = load_model(folder)
    clip = plane_clip(questions=[("how many objects are visible in image 1?", "two")])
    batch = model.backbone.encoder().prompts([clip])
    model.eval()
    with torch.no_grad():
        wanted = model.backbone(batch, edits=model.edits(model.prepare(batch))).hidden
        assert torch.equal(loaded.backbone(batch).hidden, wanted)
        assert not torch.equal(model.backbone(batch).hidden, wanted)
    # The same replies by generation with a cache, by packed questions, and by one pass a token.
    model.serve()
    tokens = loaded.backbone.generate(batch, 6)
    assert torch.equal(tokens, model.backbone.generate(batch, 6))
    packed = generate_packed(loaded.backbone, [clip], 6)
    reply = loaded.backbone.encoder().decode(tokens)
    assert packed == [reply]
    stock = load_exported_stock(folder)
    assert not torch.equal(stock.generate(batch, 6), tokens)


def test_a_kept_prior_beside_merged_adapters(
    nano_folder: Path, tmp_path: Path, keeper: type[Keeper]
) -> None:
    model = make(nano_folder, lora=LoraOptions(rank=4, alpha=8), prior=keeper).eval()
    report = export_model(model, tmp_path / "export", recipe_hash="x")
    assert report.is_stock and report.kept is not None and report.kept["identical_logits"]
    batch = model.backbone.encoder().prompts([plane_clip(questions=[("Is it far?", "yes")])])
    loaded = load_model(tmp_path / "export").backbone
    with torch.no_grad():
        wanted, found = model.serve()(batch).hidden, loaded(batch).hidden
        plain = loaded(batch, edits={}).hidden
    assert torch.allclose(found, wanted, atol=1e-3)  # merging rounds
    assert not torch.allclose(found, plain, atol=1e-1)


def load_exported_stock(folder: Path) -> Qwen2_5VL:
    return Qwen2_5VL.load(Qwen2_5VL.Config(path=str(folder))).eval()


def test_generation_with_a_cache_equals_one_pass_a_token(
    nano_folder: Path, keeper: type[Keeper]
) -> None:
    backbone = make(nano_folder, prior=keeper).eval().serve()
    clip = plane_clip(questions=[("Is it far?", "yes")])
    batch = backbone.encoder().prompts([clip])
    for token in backbone.generate(batch, 5)[0]:
        with torch.no_grad():
            found = backbone.logits(backbone(batch).hidden[:, -1]).argmax(-1)
        assert torch.equal(found, token[None])
        more = {
            "input_ids": torch.cat([batch.inputs["input_ids"], found[None]], 1),
            "attention_mask": torch.nn.functional.pad(
                batch.inputs["attention_mask"], (0, 1), value=1
            ),
        }
        if "mm_token_type_ids" in batch.inputs:
            types = batch.inputs["mm_token_type_ids"]
            more["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, 1))
        batch = replace(
            batch,
            inputs=batch.inputs | more,
            visual=torch.nn.functional.pad(batch.visual, (0, 1)),
            labels=torch.nn.functional.pad(batch.labels, (0, 1), value=-100),
        )


def test_changed_settings_and_other_weights(
    nano_folder: Path, tmp_path: Path, keeper: type[Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    export_model(make(nano_folder, prior=keeper), folder, recipe_hash="x")
    settings = Qwen2_5VL.Config()
    clip = plane_clip(questions=[("Is it far?", "yes")])
    changed = load_exported(folder, Qwen2_5VL, settings, changes={"head": Keeper.Config(bias=0.0)})
    batch = changed.encoder().prompts([clip])
    with torch.no_grad():
        plain = load_exported(folder, Qwen2_5VL, settings)(batch).hidden
        assert not torch.equal(changed(batch).hidden, plain)
    monkeypatch.setattr(Keeper, "weights", "second")
    with pytest.raises(ExportError, match=r"trained with .*first.*here there is .*second"):
        load_model(folder)
    (folder / "priors" / "head.safetensors").write_bytes(b"x")
    with pytest.raises(ExportError, match=r"file priors/head.safetensors is changed"):
        load_model(folder)


def change_weights(folder: Path, edit: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


NORM = "model.norm.weight"  # as on disk, the family's published names


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), "is not an export of spatialprior"),
        (lambda f: (f / MANIFEST).write_text("{"), "is not JSON"),
        (lambda f: (f / MANIFEST).write_text("{}"), "lacks schema_version"),
        (lambda f: (f / "config.json").unlink(), "file config.json is missing"),
        (lambda f: (f / "extra.bin").write_bytes(b"x"), "file extra.bin is not in the manifest"),
        (lambda f: (f / "config.json").write_text("{}"), "file config.json is changed"),
        (lambda f: change_weights(f, lambda t: t[NORM].add_(1)), f"tensor {NORM} is changed"),
        (lambda f: change_weights(f, lambda t: t.pop(NORM)), f"tensor {NORM} is missing"),
        (
            lambda f: change_weights(f, lambda t: t.update(extra=torch.zeros(1))),
            "tensor extra is not in the manifest",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"broken"), "cannot be read"),
    ],
)
def test_damage_is_named(exported: Path, tmp_path: Path, damage: Any, message: str) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(ExportError, match=message) as caught:
        load_export(folder)
    assert "\n" not in str(caught.value)
