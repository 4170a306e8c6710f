"""Whatever is wrong with a checkpoint costs one line, before a weight loads where that can be known."""

import dataclasses
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
from transformers import AutoConfig

from spatialprior.backbones.branches import ContextLengthError
from spatialprior.backbones.loading import BackboneError
from spatialprior.backbones.lora import LoraOptions, LoraTargetError
from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.backbones.qwen2_vl import Qwen2VL
from spatialprior.run.__main__ import main
from spatialprior.testing import plane_clip, tiny_backbone


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            GatedRepoError,
            r"is gated: accept its terms at https://huggingface.co/a/b.*hf auth login",
        ),
        (RepositoryNotFoundError, r"no such folder here and no such model on https"),
        (RevisionNotFoundError, r"backbone.revision=None: a/b has no such revision"),
        (LocalEntryNotFoundError, r"the hub cannot be reached.*hf download a/b --local-dir DIR"),
    ],
)
def test_what_the_hub_says(cause, said, monkeypatch):
    def refuse(*_, **__):
        try:
            raise cause.__new__(cause)
        except cause as error:
            raise OSError("transformers says something else") from error

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(BackboneError, match=said) as caught:
        Qwen2_5VL.check(Qwen2_5VL.Config(path="a/b"))
    assert "\n" not in str(caught.value)


def test_without_a_network_a_run_ends_with_one_line(capsys, tmp_path):
    """Really asks the hub's library, which is offline in the tests."""
    asked = ["recipe=gasp_qwen", "backbone.path=some/model", f"output_root={tmp_path}"]
    asked += ["data.train_rooms=2", "instruction.train_rooms=2", "eval=null"]
    assert main(asked) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "backbone.path=some/model is not in the local cache" in line


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/no/such/folder", "does not exist; give a Hugging Face folder"),
        ("{tmp}", "holds no config.json"),
    ],
)
def test_a_folder_that_is_none(path, said, tmp_path):
    with pytest.raises(BackboneError, match=said):
        Qwen2_5VL.check(Qwen2_5VL.Config(path=path.format(tmp=tmp_path)))


def test_a_checkpoint_of_another_family(nano_folder):
    with pytest.raises(
        BackboneError, match="is a qwen2_5_vl model, and this backbone loads qwen2_vl"
    ):
        Qwen2VL.load(Qwen2VL.Config(path=str(nano_folder)))


def test_a_checkpoint_with_a_weight_missing(nano_folder, tmp_path):
    """transformers would draw it at random and only warn."""
    folder = tmp_path / "holes"
    shutil.copytree(nano_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(key for key in weights if key.endswith("layers.1.mlp.up_proj.weight")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lacks 1 weights .*layers\.1\.mlp\.up_proj\.weight"):
        Qwen2_5VL.load(Qwen2_5VL.Config(path=str(folder)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_flash_attention_without_a_gpu():
    with pytest.raises(BackboneError, match="runs on CUDA devices only"):
        Qwen2_5VL.check(Qwen2_5VL.Config(attention="flash_attention_2"))


def test_lora_on_what_is_not_there():
    with pytest.raises(LoraTargetError, match="unknown target 'mpl'; choose from attention, mlp"):
        LoraOptions(targets=("mpl",))
    with pytest.raises(LoraTargetError, match="adapts nothing"):
        LoraOptions(targets=())
    with pytest.raises(ValueError, match="rank=0"):
        LoraOptions(rank=0)


def test_a_clip_longer_than_the_context():
    backbone = tiny_backbone()
    backbone.hf.config.get_text_config().max_position_embeddings = 150
    encode = backbone.encoder()
    short = plane_clip("short", num_views=1, questions=[(f"Is it {k}?", "yes") for k in range(12)])
    assert encode([short]).labels.shape[1] > 150  # but its questions lie beside each other
    backbone(encode([short]))
    with pytest.raises(
        ContextLengthError, match=r"clip long has \d+ tokens.*context 150: take fewer"
    ):
        backbone(encode([short, plane_clip("long", num_views=3)]))
    turns = dataclasses.replace(short, dialogue=True)
    with pytest.raises(ContextLengthError, match="clip short has"):
        backbone(encode([turns]))
