"""The empty prompt's embedding is the stock pipeline's, computed once."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline, WanPipeline
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from spatialprior.features.components import ComponentFolder
from spatialprior.features.encoder import EncoderError
from spatialprior.registry import ENCODERS

TEXT = {
    "wan_t2v": lambda: UMT5EncoderModel(
        UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    ),
    "sd21": lambda: CLIPTextModel(
        CLIPTextConfig(
            vocab_size=8,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    ),
}


def stock_embedding(name, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    text = type(TEXT[name]()).from_pretrained(folder / "text_encoder").eval()
    with torch.no_grad():
        if name == "wan_t2v":
            pipeline = WanPipeline(tokenizer, text, None, None)
            return pipeline.encode_prompt("", None, False, max_sequence_length=512, device="cpu")[0]
        pipeline = StableDiffusionPipeline(
            None, text, tokenizer, *[None] * 5, requires_safety_checker=False
        )
        return pipeline.encode_prompt("", "cpu", 1, False)[0]


@pytest.fixture
def with_text(diffusers_twin, tmp_path, monkeypatch):
    monkeypatch.setenv("SPATIALPRIOR_CACHE", str(tmp_path / "cache"))

    def make(name):
        folder = shutil.copytree(diffusers_twin(name), tmp_path / name)
        raw = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "a": 2}, unk_token="a"))
        raw.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=raw, pad_token="<pad>", model_max_length=77
        )
        tokenizer.save_pretrained(folder / "tokenizer")
        TEXT[name]().save_pretrained(folder / "text_encoder")
        return folder

    return make


def encoder_of(name, folder, **settings):
    kind = ENCODERS.get(name)
    own = {"layer": 0} if name == "wan_t2v" else {}
    return kind(kind.Config(path=str(folder), size=(32, 48), **own, **settings))


@pytest.mark.parametrize(("name", "tokens"), [("wan_t2v", 512), ("sd21", 77)])
def test_as_the_stock_pipeline_and_once(name, tokens, with_text, tmp_path, monkeypatch):
    folder = with_text(name)
    found = encoder_of(name, folder).module.prompt
    assert found.shape == (1, tokens, 16) and found[0, 0].any()
    torch.testing.assert_close(found, stock_embedding(name, folder), atol=1e-6, rtol=1e-6)
    assert (found[0, 1:] == 0).all() == (name == "wan_t2v")
    (kept,) = (tmp_path / "cache" / "prompts").iterdir()

    plain = ComponentFolder.build

    def build(self, part, kind):
        assert part != "text_encoder", "computed twice"
        return plain(self, part, kind)

    monkeypatch.setattr(ComponentFolder, "build", build)
    assert torch.equal(encoder_of(name, folder).module.prompt, found)

    # The text encoder is part of what identifies the features, and of the kept file's name.
    before = encoder_of(name, folder).revision
    TEXT[name]().save_pretrained(folder / "text_encoder")
    assert encoder_of(name, folder).revision != before
    with pytest.raises(AssertionError, match="computed twice"):
        encoder_of(name, folder).load()
    assert kept.is_file()


def test_random_weights_load_no_text_encoder(with_text):
    folder = with_text("wan_t2v")
    assert torch.equal(
        encoder_of("wan_t2v", folder, weights="random").module.prompt, torch.zeros(1, 8, 16)
    )


def test_a_file_of_ones_own(diffusers_twin, tmp_path):
    folder, file = diffusers_twin("wan_t2v"), tmp_path / "prompt.safetensors"
    embedding = torch.randn(1, 5, 16)
    save_file({"prompt": embedding}, file)
    encoder = encoder_of("wan_t2v", folder, prompt_embedding=str(file))
    assert torch.equal(encoder.module.prompt, embedding)
    before = encoder.revision
    save_file({"prompt": embedding + 1}, file)
    assert encoder_of("wan_t2v", folder, prompt_embedding=str(file)).revision != before
    images = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    other = encoder_of("wan_t2v", folder)
    assert not torch.allclose(encoder(images).values, other(images).values, atol=1e-5)

    save_file({"prompt": torch.zeros(1, 5, 15)}, file)
    for path, said in ((file, r"one of \[1, L, 16\] is needed"), (tmp_path / "no", "no such")):
        with pytest.raises(EncoderError, match=said) as caught:
            wrong = encoder_of("wan_t2v", folder, prompt_embedding=str(path))
            wrong.check(wrong.config)
        assert "\n" not in str(caught.value)
