"""Shape, tokenizer and processor of the nano Qwen2.5-VL.

Everything is an instance of the stock class; only numbers are small.

``python -m spatialprior.backbones.nano.qwen2_5_vl_nano FOLDER`` writes an untrained twin to FOLDER;
``--expand SOURCE`` writes SOURCE with identity blocks in front instead.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from spatialprior.backbones.nano.shape import HEADS, HIDDEN, INIT_STD, INTERMEDIATE, text_config
from spatialprior.backbones.nano.vocabulary import qwen_tokenizer

MODEL = Qwen2_5_VLForConditionalGeneration
PATCH = 8
SIDE = 128

SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def tokenizer() -> Qwen2Tokenizer:
    """A stock ``Qwen2Tokenizer`` over a small byte-level vocabulary."""
    return qwen_tokenizer(SPECIAL)


def chat_template() -> str:
    """The template of the Qwen twins."""
    return (resources.files("spatialprior.backbones.nano") / "chat_template.jinja").read_text()


def visual_ids(tok: Qwen2Tokenizer) -> dict[str, int]:
    """Ids of the tokens that stand for an image or a video, and around one, by their configuration name."""
    tokens = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tok.convert_tokens_to_ids(token) for name, token in tokens.items()}


def processor() -> Qwen2_5_VLProcessor:
    """A stock ``Qwen2_5_VLProcessor``: one visual token is one 8x8 patch."""
    size = {"shortest_edge": 8 * 8 * PATCH * PATCH, "longest_edge": SIDE * SIDE}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH, merge_size=1, size=size),
        tokenizer=tokenizer(),
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH, merge_size=1, size=size),
        chat_template=chat_template(),
    )


def config(tok: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """The stock configuration with nano numbers; the shipped base has two layers more, see :func:`expand`."""
    return Qwen2_5_VLConfig(
        text_config=text_config(
            tok,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [1, 1, 14],
            },
        ),
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_heads": HEADS,
            "patch_size": PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 2,
            "window_size": SIDE,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0, 1],
            "initializer_range": INIT_STD,
        },
        **visual_ids(tok),
        tie_word_embeddings=True,
    )


def build(folder: Path, seed: int = 0) -> None:
    """Write an untrained twin (weights drawn with ``seed``) to ``folder``."""
    proc = processor()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config(proc.tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=proc.tokenizer.eos_token_id, pad_token_id=proc.tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    proc.save_pretrained(folder)


def expand(source: Path, folder: Path, blocks: int = 2, seed: int = 0) -> None:
    """Write the model of ``source`` with ``blocks`` more decoder layers, the first ones, to ``folder``.

    The new layers add nothing yet: their output projections are zero, the rest is drawn with ``seed``. So
    the model answers as before, bit for bit, and has layers that training on language has not shaped
    ("Block Expansion" of LLaMA Pro, arXiv 2401.02415; there the other weights are copied instead of drawn,
    and the blocks are spread over the depth).
    """
    if blocks < 1:
        raise ValueError(f"blocks={blocks}: must be at least 1")
    trained = Qwen2_5_VLForConditionalGeneration.from_pretrained(source)
    deeper = Qwen2_5_VLConfig.from_pretrained(source)
    text = deeper.text_config
    text.num_hidden_layers += blocks
    text.layer_types = [text.layer_types[0]] * text.num_hidden_layers
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(deeper)
    moved = {_layers_later(name, blocks): weight for name, weight in trained.state_dict().items()}
    missing, unexpected = model.load_state_dict(moved, strict=False)
    new = tuple(f"model.language_model.layers.{i}." for i in range(blocks))
    assert not unexpected and all(name.startswith(new) for name in missing), (missing, unexpected)
    with torch.no_grad():
        for layer in model.model.language_model.layers[:blocks]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.generation_config = trained.generation_config
    model.save_pretrained(folder)
    Qwen2_5_VLProcessor.from_pretrained(source).save_pretrained(folder)


def _layers_later(name: str, blocks: int) -> str:
    stem = "model.language_model.layers."
    if not name.startswith(stem):
        return name
    number, _, rest = name.removeprefix(stem).partition(".")
    return f"{stem}{int(number) + blocks}.{rest}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Write a nano Qwen2.5-VL as a Hugging Face folder."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--expand", type=Path, metavar="SOURCE", help="start from this trained folder"
    )
    parser.add_argument("--blocks", type=int, default=2, help="identity layers to put in front")
    arguments = parser.parse_args()
    if arguments.expand:
        expand(arguments.expand, arguments.folder, arguments.blocks)
    else:
        build(arguments.folder)


if __name__ == "__main__":
    main()
