"""A folder with the names of the published G²VLM checkpoint, of any sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from safetensors.torch import save_file

from spatialprior.priors.geometry_expert.upstream import INDEX, WEIGHTS


@dataclass(frozen=True)
class Sizes:
    """``d``: width of decoder and heads; ``head``, ``kv``: channels of a head, of all key heads."""

    layers: int = 2
    blocks: int = 2
    d: int = 16
    head: int = 4
    kv: int = 8
    mlp: int = 24
    dino: int = 12
    patch: int = 2
    point: int = 10
    camera: int = 6


def linear(name, out, into, bias=True):
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def attention_side(sizes, layer, suffix):
    """One side of a decoder layer upstream: the language model's own (no suffix) or the expert's."""
    d, attention = sizes.d, f"{layer}.self_attn"
    shapes = linear(f"{attention}.q_proj{suffix}", d, d)
    shapes |= linear(f"{attention}.k_proj{suffix}", sizes.kv, d)
    shapes |= linear(f"{attention}.v_proj{suffix}", sizes.kv, d)
    shapes |= linear(f"{attention}.o_proj{suffix}", d, d, bias=False)
    shapes |= {f"{attention}.{name}_norm{suffix}.weight": (sizes.head,) for name in "qk"}
    shapes |= linear(f"{layer}.mlp{suffix}.gate_proj", sizes.mlp, d, bias=False)
    shapes |= linear(f"{layer}.mlp{suffix}.up_proj", sizes.mlp, d, bias=False)
    shapes |= linear(f"{layer}.mlp{suffix}.down_proj", d, sizes.mlp, bias=False)
    shapes |= {f"{layer}.input_layernorm{suffix}.weight": (d,)}
    return shapes | {f"{layer}.post_attention_layernorm{suffix}.weight": (d,)}


def decoder(sizes, name, out, context=False):
    d = sizes.d
    shapes = linear(f"{name}.linear_out", out, d)
    for project in ("projects_x", "projects_y") if context else ("projects",):
        shapes |= linear(f"{name}.{project}", d, d)
    for i in range(sizes.blocks):
        block = f"{name}.blocks.{i}"
        shapes |= norm(f"{block}.norm1", d) | norm(f"{block}.norm2", d)
        shapes |= linear(f"{block}.attn.qkv", 3 * d, d) | linear(f"{block}.attn.proj", d, d)
        shapes |= linear(f"{block}.mlp.fc1", 4 * d, d) | linear(f"{block}.mlp.fc2", d, 4 * d)
        if context:
            shapes |= norm(f"{block}.norm_y", d) | norm(f"{block}.norm3", d)
            for part in ("q_proj", "k_proj", "v_proj", "proj"):
                shapes |= linear(f"{block}.cross_attn.{part}", d, d)
    return shapes


def upstream_shapes(sizes):
    d = sizes.d
    shapes = {"language_model.model.embed_tokens.weight": (9, d)}
    shapes |= linear("language_model.lm_head", 9, d, bias=False)
    for i in range(sizes.layers):
        layer = f"language_model.model.layers.{i}"
        shapes |= attention_side(sizes, layer, "") | attention_side(sizes, layer, "_moe_geo")
        shapes |= {f"{layer}.ls1.gamma": (d,), f"{layer}.ls2.gamma": (d,)}
    shapes |= {f"language_model.model.norm{side}.weight": (d,) for side in ("", "_moe_geo")}
    shapes |= {"vit_model.blocks.0.attn.qkv.weight": (6, 2)}
    shapes |= {
        "dino_model.encoder.layer.0.attention.attention.query.weight": (sizes.dino, sizes.dino)
    }
    shapes |= linear("dino2llm", d, sizes.dino)
    pixels = 3 * sizes.patch**2
    shapes |= decoder(sizes, "point_decoder", sizes.point)
    shapes |= linear("point_head.proj", pixels, sizes.point)
    shapes |= decoder(sizes, "camera_decoder", sizes.camera)
    for i in range(2):
        for n in (1, 2, 3):
            shapes |= linear(f"camera_head.res_conv.{i}.res_conv{n}", sizes.camera, sizes.camera)
    shapes |= linear("camera_head.more_mlps.0", sizes.camera, sizes.camera)
    shapes |= linear("camera_head.more_mlps.2", sizes.camera, sizes.camera)
    shapes |= linear("camera_head.fc_t", 3, sizes.camera) | linear(
        "camera_head.fc_rot", 9, sizes.camera
    )
    shapes |= decoder(sizes, "global_points_decoder", sizes.point, context=True)
    return shapes | linear("global_point_head.proj", pixels, sizes.point)


def upstream_tensors(sizes):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).bfloat16()
        for name, shape in upstream_shapes(sizes).items()
    }


def write(folder, tensors, shards=1):
    if shards == 1:
        save_file(tensors, folder / WEIGHTS)
        return folder
    placed = {}
    for i in range(shards):
        part = dict(list(tensors.items())[i::shards])
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file)
        placed |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder
