"""Tokenizers of the nano twins: stock classes over small vocabularies that can write any text.

Each word of ``words.txt`` is a single token; the rest is spelled in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX


def words() -> list[str]:
    """The words of the embedded world's language."""
    return (resources.files("spatialprior.backbones.nano") / "words.txt").read_text().split()


def qwen_tokenizer(special: Sequence[str]) -> Qwen2Tokenizer:
    """A ``Qwen2Tokenizer``: byte-level, a turn ends with ``<|im_end|>``."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator([form for word in words() for form in (word, f" {word}")], trainer)
    return Qwen2Tokenizer(
        vocab=bpe.get_vocab(),
        merges=_merges(bpe),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(special),
        model_max_length=8192,
    )


def llama_tokenizer(special: Sequence[str]) -> LlamaTokenizer:
    """A ``LlamaTokenizer``: blanks are part of words, unknown characters fall back to bytes."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    bpe.train_from_iterator([*words(), "USER: ASSISTANT:"], trainer)
    return LlamaTokenizer(
        vocab=bpe.get_vocab(),
        merges=_merges(bpe),
        pad_token="<pad>",
        add_bos_token=True,  # as the published tokenizer, in its post-processor
        extra_special_tokens=list(special),
        model_max_length=8192,
    )


def _merges(bpe: Tokenizer) -> list[tuple[str, ...]]:
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [tuple(pair if isinstance(pair, list) else pair.split(" ")) for pair in merges]
