"""Shape and processor of the nano Qwen3-VL: four decoder layers, DeepStack after the first two."""

from __future__ import annotations

from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from spatialprior.backbones.nano import qwen2_5_vl_nano as nano
from spatialprior.backbones.nano.shape import HEADS, HIDDEN, INIT_STD, INTERMEDIATE, text_config

MODEL = Qwen3VLForConditionalGeneration


def processor() -> Qwen3VLProcessor:
    """A stock ``Qwen3VLProcessor``: one visual token is one 8x8 patch."""
    smallest = 8 * 8 * nano.PATCH * nano.PATCH
    image = {"shortest_edge": smallest, "longest_edge": nano.SIDE**2}
    # This family bounds the pixels of all frames of a video together.
    video = {"shortest_edge": 2 * smallest, "longest_edge": 32 * nano.SIDE**2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=nano.PATCH, merge_size=1, size=image),
        tokenizer=nano.tokenizer(),
        video_processor=Qwen3VLVideoProcessor(patch_size=nano.PATCH, merge_size=1, size=video),
        chat_template=nano.chat_template(),
    )


def config(tok: Qwen2Tokenizer) -> Qwen3VLConfig:
    """The stock configuration with nano numbers."""
    return Qwen3VLConfig(
        text_config=text_config(
            tok,
            num_key_value_heads=1,
            head_dim=HIDDEN // HEADS,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        ),
        vision_config={
            "depth": 3,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_heads": HEADS,
            "patch_size": nano.PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": INIT_STD,
        },
        **nano.visual_ids(tok),
        tie_word_embeddings=True,
    )
