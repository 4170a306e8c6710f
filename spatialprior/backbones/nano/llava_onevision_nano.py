"""Shape and processor of the nano LLaVA-OneVision: 11x11 patches that leave a rim, pooled to 6x6 in a video."""

from __future__ import annotations

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Tokenizer,
)

from spatialprior.backbones.nano.shape import HEADS, HIDDEN, INTERMEDIATE, text_config
from spatialprior.backbones.nano.vocabulary import qwen_tokenizer

MODEL = LlavaOnevisionForConditionalGeneration
PATCH = 4
CELLS = 11
SIDE = CELLS * PATCH + 2
PINPOINTS = [[rows * SIDE, cols * SIDE] for rows in (1, 2) for cols in (1, 2)]

# As the published template: views before the text; a turn that is over has a blank after its role.
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + ' ' }}
{%- for part in message['content'] if part['type'] in ('image', 'video') -%}
{{ '<' + part['type'] + '>' }}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ '\\n' + part['text'] }}
{%- endfor -%}
{{ '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}"""


def processor() -> LlavaOnevisionProcessor:
    """A stock ``LlavaOnevisionProcessor``: squares of 46 pixels a side."""
    size = {"height": SIDE, "width": SIDE}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS),
        tokenizer=qwen_tokenizer(["<|im_start|>", "<|im_end|>", "<image>", "<video>"]),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=CELLS**2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def config(tok: Qwen2Tokenizer) -> LlavaOnevisionConfig:
    """The stock configuration with nano numbers."""
    return LlavaOnevisionConfig(
        text_config=text_config(tok, model_type="qwen2", num_key_value_heads=1),
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        image_grid_pinpoints=PINPOINTS,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=tok.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=True,
    )
