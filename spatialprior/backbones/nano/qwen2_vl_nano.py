"""Shape and processor of the nano Qwen2-VL: the decoder and tokenizer of the nano Qwen2.5-VL.

Its template begins every conversation with a system turn, as the published one does.
"""

from __future__ import annotations

from transformers import (
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from spatialprior.backbones.nano import qwen2_5_vl_nano as nano
from spatialprior.backbones.nano.shape import HEADS, HIDDEN, INIT_STD

MODEL = Qwen2VLForConditionalGeneration
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def processor() -> Qwen2VLProcessor:
    """A stock ``Qwen2VLProcessor``: one visual token is one 8x8 patch."""
    size = {"shortest_edge": 8 * 8 * nano.PATCH * nano.PATCH, "longest_edge": nano.SIDE**2}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=nano.PATCH, merge_size=1, size=size),
        tokenizer=nano.tokenizer(),
        video_processor=Qwen2VLVideoProcessor(patch_size=nano.PATCH, merge_size=1, size=size),
        chat_template=f"{{% if messages[0]['role'] != 'system' %}}{_SYSTEM}{{% endif %}}{nano.chat_template()}",
    )


def config(tok: Qwen2Tokenizer) -> Qwen2VLConfig:
    """The stock configuration with nano numbers."""
    text = nano.config(tok).text_config.to_dict()
    text.pop("model_type")
    return Qwen2VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "embed_dim": HIDDEN,
            "hidden_size": HIDDEN,
            "num_heads": HEADS,
            "mlp_ratio": 2,
            "patch_size": nano.PATCH,
            "spatial_merge_size": 1,
            "temporal_patch_size": 2,
            "initializer_range": INIT_STD,
        },
        **nano.visual_ids(tok),
        tie_word_embeddings=True,
    )
