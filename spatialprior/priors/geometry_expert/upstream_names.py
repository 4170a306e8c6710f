"""What the weights of the published G²VLM checkpoint are called here: tables, no tensors.

Names of the expert, of the projector and of decoders and heads as a whole were read in a public copy of G²VLM's
model code. Names inside of decoders and heads are those of π³ (``yyfz/Pi3``), whose classes G²VLM builds on: an
inference, as that copied file could not be read. Not run on the real weights.
"""

from __future__ import annotations

import re

_LAYER = "language_model.model.layers.#"
_NUMBER = re.compile(r"(?<=\.layers\.)\d+(?=\.)|(?<=\.blocks\.)\d+(?=\.)")

_EXPERT = {
    "input_layernorm_moe_geo": "input_layernorm",
    "post_attention_layernorm_moe_geo": "post_attention_layernorm",
    **{f"self_attn.{name}_proj_moe_geo": f"{name}_proj" for name in "qkvo"},
    **{f"self_attn.{name}_norm_moe_geo": f"{name}_norm" for name in "qk"},
    **{f"mlp_moe_geo.{name}_proj": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_SCALES = {
    f"{_LAYER}.ls1.gamma": "layers.#.attention_scale",
    f"{_LAYER}.ls2.gamma": "layers.#.mlp_scale",
}

# Queries, keys and values are one matrix upstream, its rows in this order.
_FUSED = ("attention.query", "attention.key", "attention.value")
_SELF_ATTENTION = {
    "norm1": ("attention_norm",),
    "attn.qkv": _FUSED,
    "attn.proj": ("attention.out",),
    "mlp.fc1": ("mlp.expand",),
    "mlp.fc2": ("mlp.contract",),
}
_BLOCK = {**_SELF_ATTENTION, "norm2": ("mlp_norm",)}
_CONTEXT_BLOCK = {
    **_SELF_ATTENTION,
    "norm2": ("cross_norm",),
    "norm_y": ("context_norm",),
    "cross_attn.q_proj": ("cross.query",),
    "cross_attn.k_proj": ("cross.key",),
    "cross_attn.v_proj": ("cross.value",),
    "cross_attn.proj": ("cross.out",),
    "norm3": ("mlp_norm",),
}
_DECODER = {
    "projects": ("project",),
    "linear_out": ("out",),
    **{f"blocks.#.{a}": tuple(f"blocks.#.{b}" for b in bs) for a, bs in _BLOCK.items()},
}
_CONTEXT_DECODER = {
    "projects_x": ("project",),
    "projects_y": ("project_context",),
    "linear_out": ("out",),
    **{f"blocks.#.{a}": tuple(f"blocks.#.{b}" for b in bs) for a, bs in _CONTEXT_BLOCK.items()},
}
_DECODERS = {
    "point_decoder": ("heads.points.decoder", _DECODER),
    "camera_decoder": ("heads.camera.decoder", _DECODER),
    "conf_decoder": ("heads.confidence.decoder", _DECODER),
    "global_points_decoder": ("heads.global_points.decoder", _CONTEXT_DECODER),
}
_OUTPUTS = {
    "language_model.model.norm_moe_geo": "norm",
    "dino2llm": "projector",
    "point_head.proj": "heads.points.pixels",
    "global_point_head.proj": "heads.global_points.pixels",
    "conf_head.proj": "heads.confidence.pixels",
    **{
        f"camera_head.res_conv.{block}.res_conv{n + 1}": f"heads.camera.residual.{block}.maps.{n}"
        for block in range(2)
        for n in range(3)
    },
    "camera_head.more_mlps.0": "heads.camera.hidden.0",
    "camera_head.more_mlps.2": "heads.camera.hidden.1",
    "camera_head.fc_t": "heads.camera.translation",
    "camera_head.fc_rot": "heads.camera.rotation",
}

MODULES: dict[str, tuple[str, ...]] = {
    **{f"{_LAYER}.{theirs}": (f"layers.#.{ours}",) for theirs, ours in _EXPERT.items()},
    **{
        f"{decoder}.{theirs}": tuple(f"{head}.{name}" for name in ours)
        for decoder, (head, table) in _DECODERS.items()
        for theirs, ours in table.items()
    },
    **{theirs: (ours,) for theirs, ours in _OUTPUTS.items()},
}
"""Module upstream -> modules here; ``#`` is a layer's or block's number. Several share one tensor's rows."""

LEFT_OUT = (
    "language_model.model.embed_tokens.",
    "language_model.lm_head.",
    "language_model.model.norm.",
    *(f"{_LAYER}.{name}." for name in ("input_layernorm", "post_attention_layernorm", "mlp")),
    *(f"{_LAYER}.self_attn.{name}_proj." for name in "qkvo"),
    *(f"{_LAYER}.self_attn.{name}_norm." for name in "qk"),
    "vit_model.",
    "dino_model.",
)
"""Beginnings of what is not imported: the language model's own side and its vision tower come from the stock
backbone, DINOv2 from the encoder, which loads its own."""


class UpstreamError(ValueError):
    """A folder is not the published checkpoint, or does not fit the model. The message is one line."""


def imported_names(key: str) -> tuple[str, ...] | None:
    """What a tensor of the published checkpoint is called here.

    Returns:
        One name; three where queries, keys and values lie in one tensor, each a third of its rows in this
        order; ``None`` for what is left out on purpose (:data:`LEFT_OUT`).

    Raises:
        UpstreamError: The key is neither.
    """
    found = _NUMBER.search(key) if not key.startswith(("vit_model.", "dino_model.")) else None
    general = key if found is None else f"{key[: found.start()]}#{key[found.end() :]}"
    if general.startswith(LEFT_OUT):
        return None
    names: tuple[str, ...]
    if general in _SCALES:
        names = (_SCALES[general],)
    else:
        module, _, kind = general.rpartition(".")
        if module not in MODULES or kind not in ("weight", "bias"):
            raise UpstreamError(
                f"G²VLM weights: {key} is neither a geometry weight known here nor of what is left out "
                f"({', '.join(sorted({name.split('.')[0] for name in LEFT_OUT}))})"
            )
        names = tuple(f"{name}.{kind}" for name in MODULES[module])
    return names if found is None else tuple(name.replace("#", found[0]) for name in names)
