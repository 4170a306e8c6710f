"""What is wrong with a model's folder costs one line, and no weight is read where that can be known before."""

import json
import shutil

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from spatialprior.features import components
from spatialprior.features import digest as digest_module
from spatialprior.features.encoder import EncoderError
from spatialprior.registry import ENCODERS


@pytest.fixture
def folder(diffusers_twin, tmp_path):
    """A copy of Wan's twin, to be damaged."""
    return shutil.copytree(diffusers_twin("wan_t2v"), tmp_path / "wan")


def refused(name, **settings):
    kind = ENCODERS.get(name)
    with pytest.raises(EncoderError) as caught:
        kind.check(kind.Config(**{"size": (32, 48), **settings}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["wan_vace", "sd21", "svd", "sd_vae"])
def test_no_nano(name):
    assert "no embedded model; set path to a folder" in refused(name, path="nano")


@pytest.mark.parametrize("name", ["wan_t2v", "wan_vace", "sd21", "svd", "sd_vae"])
def test_no_folder_and_no_component(name, tmp_path):
    assert "does not exist; give a folder" in refused(name, path=str(tmp_path / "none"))
    found = refused(name, path=str(tmp_path))
    assert "config.json; give a folder in diffusers' layout or a hub id such as" in found


@pytest.mark.parametrize("layer", [-1, 4])
def test_layer_out_of_range_before_a_weight_is_read(layer, folder):
    for file in folder.rglob("*.safetensors"):
        file.write_bytes(b"not weights")
    assert "has blocks 0 to 3" in refused("wan_t2v", path=str(folder), layer=layer)


def test_what_check_says_of_settings(folder, diffusers_twin):
    path = str(folder)
    assert "multiples of 16" in refused("wan_t2v", path=path, layer=0, size=(40, 40), fit="crop")
    assert "drop it" in refused("wan_t2v", path=path, layer=0, revision="main")
    sd21 = str(diffusers_twin("sd21"))
    assert "0 to 999" in refused("sd21", path=sd21, timestep=1000)
    assert "is of WanTransformer3DModel" in refused("wan_vace", path=path, layer=0)
    for name, wrong in (("wan_t2v", {"noise_level": 1.5}), ("svd", {"sigma": 0.0})):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ENCODERS.get(name).Config(**wrong)


def test_weights_that_do_not_fit(folder):
    kind = ENCODERS.get("wan_t2v")
    encoder = kind(kind.Config(path=str(folder), layer=0))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    damaged = {
        "missing": {key: value for key, value in whole.items() if key != "proj_out.bias"},
        "unexpected": {**whole, "more": torch.zeros(1)},
        "cannot be loaded": {**whole, "proj_out.bias": torch.zeros(3)},
    }
    for said, weights in damaged.items():
        save_file(weights, file)
        with pytest.raises(EncoderError, match=said) as caught:
            encoder.load()
        assert "\n" not in str(caught.value)
    file.unlink()
    assert "no transformer/*.safetensors" in refused("wan_t2v", path=str(folder), layer=0)
    # Random weights need none.
    kind.check(kind.Config(path=str(folder), layer=0, weights="random"))


def test_schedule_is_needed_and_identifies(diffusers_twin, tmp_path):
    copy = shutil.copytree(diffusers_twin("sd21"), tmp_path / "sd21")
    kind = ENCODERS.get("sd21")
    before = kind(kind.Config(path=str(copy))).revision
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "beta_end": 0.02}))
    assert kind(kind.Config(path=str(copy))).revision != before
    file.unlink()
    assert "no scheduler/scheduler_config.json" in refused("sd21", path=str(copy))


def test_revision_is_of_the_content(folder, tmp_path, monkeypatch):
    kind = ENCODERS.get("wan_t2v")

    def revision(path, **settings):
        return kind(kind.Config(path=str(path), layer=0, **settings)).revision

    before, drawn = revision(folder), revision(folder, weights="random")
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    file.touch()
    assert revision(copy) == before
    weights = load_file(file)
    weights["quant_conv.bias"] += 1
    save_file(weights, file)
    assert revision(copy) != before
    assert revision(copy, weights="random") == drawn
    # Of large files samples are read, which a copy has too.
    monkeypatch.setattr(digest_module, "_READ_WHOLE", 0)
    monkeypatch.setattr(digest_module, "_SAMPLE", 16)
    large = revision(copy)
    file.touch()
    assert revision(shutil.copytree(copy, tmp_path / "again")) == large
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert revision(copy) != large


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (GatedRepoError, "is gated: accept its terms at https://huggingface.co/a/b"),
        (RepositoryNotFoundError, "no such folder here and no such model on https"),
        (RevisionNotFoundError, "revision=v9: a/b has no such revision"),
        (LocalEntryNotFoundError, "the hub cannot be reached: where there is a network"),
    ],
)
def test_what_the_hub_says(cause, said, monkeypatch):
    def refuse(*_, **__):
        raise cause.__new__(cause)

    monkeypatch.setattr(components, "snapshot_download", refuse)
    assert said in refused("wan_t2v", path="a/b", revision="v9")


def test_without_a_network():
    """Really asks the hub's library, which is offline in the tests."""
    assert "hf download some/model --local-dir DIR" in refused("sd21", path="some/model")


def test_a_hub_snapshot(diffusers_twin, tmp_path, monkeypatch):
    """The commit is the revision; configurations first, then the weights of that very commit."""
    commit = "c" * 40
    asked = []

    def download(path, *, revision, allow_patterns, ignore_patterns):
        asked.append((path, revision, tuple(allow_patterns)))
        for pattern in allow_patterns:
            for file in diffusers_twin("wan_t2v").glob(pattern):
                to = tmp_path / commit / file.parent.name / file.name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, to)
        return str(tmp_path / commit)

    monkeypatch.setattr(components, "snapshot_download", download)
    kind = ENCODERS.get("wan_t2v")
    config = kind.Config(path="some/model", revision="main", layer=1, size=(32, 48))
    kind.check(config)
    assert not list(tmp_path.rglob("*.safetensors"))
    encoder = kind(config)
    assert encoder.revision == commit
    local = kind(kind.Config(path=str(diffusers_twin("wan_t2v")), layer=1, size=(32, 48)))
    assert encoder.checksum() == local.checksum()
    assert {revision for _, revision, patterns in asked if "safetensors" in patterns[0]} == {commit}
