"""Shape and processor of the nano LLaVA-NeXT-Video: 24x24 patches a frame, pooled to 12x12 tokens."""

from __future__ import annotations

from transformers import (
    LlamaTokenizer,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
)

from spatialprior.backbones.nano.shape import HEADS, HIDDEN, INTERMEDIATE, text_config
from spatialprior.backbones.nano.vocabulary import llama_tokenizer

MODEL = LlavaNextVideoForConditionalGeneration
PATCH = 4
SIDE = 24 * PATCH
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]

# As the published template: plain words for the roles, views before the text, no end token between turns.
TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif -%}
{%- for part in message['content'] if part['type'] in ('image', 'video') -%}
{{ '<' + part['type'] + '>\\n' }}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ part['text'] + ' ' }}
{%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif -%}"""


def processor() -> LlavaNextVideoProcessor:
    """A stock ``LlavaNextVideoProcessor``: a frame's middle square, 96 pixels a side."""
    settings = {
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
    }
    return LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**settings),
        image_processor=LlavaNextImageProcessor(**settings, image_grid_pinpoints=PINPOINTS),
        tokenizer=llama_tokenizer(["<image>", "<video>"]),
        chat_template=TEMPLATE,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def config(tok: LlamaTokenizer) -> LlavaNextVideoConfig:
    """The stock configuration with nano numbers."""
    return LlavaNextVideoConfig(
        text_config=text_config(tok, model_type="llama"),
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": 3,  # the last one goes unused: features are taken before it
            "num_attention_heads": HEADS,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": HIDDEN,
        },
        image_grid_pinpoints=PINPOINTS,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=tok.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=False,
    )
