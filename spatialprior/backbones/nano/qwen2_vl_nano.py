"""Shape and processor of the nano Qwen2-VL: the decoder and tokenizer of the nano Qwen2.5-VL.

Its template begins every conversation with a system turn, as the published one does.
"""

from __future__ import annotations

from importlib import resources

from transformers import (
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from spatialprior.backbones.nano import qwen2_5_vl_nano as nano

MODEL = Qwen2VLForConditionalGeneration
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def processor() -> Qwen2VLProcessor:
    """A stock ``Qwen2VLProcessor``: one visual token is one 8x8 patch."""
    size = {"shortest_edge": 8 * 8 * nano.PATCH * nano.PATCH, "longest_edge": nano.SIDE**2}
    template = (resources.files("spatialprior.backbones.nano") / "chat_template.jinja").read_text()
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=nano.PATCH, merge_size=1, size=size),
        tokenizer=nano.tokenizer(),
        video_processor=Qwen2VLVideoProcessor(patch_size=nano.PATCH, merge_size=1, size=size),
        chat_template=f"{{% if messages[0]['role'] != 'system' %}}{_SYSTEM}{{% endif %}}{template}",
    )


def config(tok: Qwen2Tokenizer) -> Qwen2VLConfig:
    """The stock configuration with nano numbers."""
    like = nano.config(tok)
    text = {k: v for k, v in like.text_config.to_dict().items() if k != "model_type"}
    return Qwen2VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "embed_dim": nano.HIDDEN,
            "hidden_size": nano.HIDDEN,
            "num_heads": nano.HEADS,
            "mlp_ratio": 2,
            "patch_size": nano.PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 2,
            "initializer_range": nano.INIT_STD,
        },
        image_token_id=like.image_token_id,
        video_token_id=like.video_token_id,
        vision_start_token_id=like.vision_start_token_id,
        vision_end_token_id=like.vision_end_token_id,
        tie_word_embeddings=True,
    )
