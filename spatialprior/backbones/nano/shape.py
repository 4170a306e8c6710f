"""The numbers that the nano twins share."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

HIDDEN, HEADS, LAYERS = 64, 2, 4
INTERMEDIATE = 176
INIT_STD = 0.12
"""About 1/sqrt(HIDDEN). With the stock 0.02, attention at this width is so flat that matching never starts."""


def text_config(tok: PreTrainedTokenizerBase, **own: Any) -> dict[str, Any]:
    """Settings of a small decoder for the vocabulary of ``tok``; ``own`` are those of the family."""
    return {
        "vocab_size": len(tok),
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": 8192,
        "initializer_range": INIT_STD,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
        **own,
    }
