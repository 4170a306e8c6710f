"""Shape and processor of the nano Qwen3-VL: four decoder layers, DeepStack after the first two."""

from __future__ import annotations

from importlib import resources

from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from spatialprior.backbones.nano import qwen2_5_vl_nano as nano

MODEL = Qwen3VLForConditionalGeneration


def processor() -> Qwen3VLProcessor:
    """A stock ``Qwen3VLProcessor``: one visual token is one 8x8 patch."""
    smallest = 8 * 8 * nano.PATCH * nano.PATCH
    image = {"shortest_edge": smallest, "longest_edge": nano.SIDE**2}
    # This family bounds the pixels of all frames of a video together.
    video = {"shortest_edge": 2 * smallest, "longest_edge": 32 * nano.SIDE**2}
    template = (resources.files("spatialprior.backbones.nano") / "chat_template.jinja").read_text()
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=nano.PATCH, merge_size=1, size=image),
        tokenizer=nano.tokenizer(),
        video_processor=Qwen3VLVideoProcessor(patch_size=nano.PATCH, merge_size=1, size=video),
        chat_template=template,
    )


def config(tok: Qwen2Tokenizer) -> Qwen3VLConfig:
    """The stock configuration with nano numbers."""
    like = nano.config(tok)
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "eos_token_id")
    return Qwen3VLConfig(
        text_config={
            **{name: getattr(like.text_config, name) for name in same},
            "num_attention_heads": nano.HEADS,
            "num_key_value_heads": 1,
            "head_dim": nano.HIDDEN // nano.HEADS,
            "max_position_embeddings": 8192,
            "initializer_range": nano.INIT_STD,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "pad_token_id": tok.pad_token_id,
        },
        vision_config={
            "depth": 3,
            "hidden_size": nano.HIDDEN,
            "intermediate_size": 176,
            "num_heads": nano.HEADS,
            "patch_size": nano.PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 2,
            "out_hidden_size": nano.HIDDEN,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": nano.INIT_STD,
        },
        image_token_id=like.image_token_id,
        video_token_id=like.video_token_id,
        vision_start_token_id=like.vision_start_token_id,
        vision_end_token_id=like.vision_end_token_id,
        tie_word_embeddings=True,
    )
