"""Import of the published checkpoint, on a small folder of the same names. Never run on the real weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.geometry_heads import GeometryHeads
from spatialprior.priors.geometry_expert.heads.rope2d import grid_angles
from spatialprior.priors.geometry_expert.upstream import INDEX, WEIGHTS, read_upstream
from spatialprior.priors.geometry_expert.upstream_names import UpstreamError, imported_names

LAYERS, BLOCKS, D, HEAD, KV, MLP, DINO, PATCH = 2, 2, 16, 4, 8, 24, 12, 2
POINT, CAMERA = 10, 6
CONFIG = HeadsConfig(width=D, blocks=BLOCKS, heads=2, point_width=POINT, camera_width=CAMERA)


def linear(name, out, into, bias=True):
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name):
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def attention_side(layer, suffix):
    """One side of a decoder layer upstream: the language model's own (no suffix) or the expert's."""
    attention = f"{layer}.self_attn"
    shapes = linear(f"{attention}.q_proj{suffix}", D, D)
    shapes |= linear(f"{attention}.k_proj{suffix}", KV, D)
    shapes |= linear(f"{attention}.v_proj{suffix}", KV, D)
    shapes |= linear(f"{attention}.o_proj{suffix}", D, D, bias=False)
    shapes |= {f"{attention}.{name}_norm{suffix}.weight": (HEAD,) for name in "qk"}
    shapes |= linear(f"{layer}.mlp{suffix}.gate_proj", MLP, D, bias=False)
    shapes |= linear(f"{layer}.mlp{suffix}.up_proj", MLP, D, bias=False)
    shapes |= linear(f"{layer}.mlp{suffix}.down_proj", D, MLP, bias=False)
    shapes |= {f"{layer}.input_layernorm{suffix}.weight": (D,)}
    return shapes | {f"{layer}.post_attention_layernorm{suffix}.weight": (D,)}


def decoder(name, out, context=False):
    shapes = linear(f"{name}.linear_out", out, D)
    for project in ("projects_x", "projects_y") if context else ("projects",):
        shapes |= linear(f"{name}.{project}", D, D)
    for i in range(BLOCKS):
        block = f"{name}.blocks.{i}"
        shapes |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        shapes |= linear(f"{block}.attn.qkv", 3 * D, D) | linear(f"{block}.attn.proj", D, D)
        shapes |= linear(f"{block}.mlp.fc1", 4 * D, D) | linear(f"{block}.mlp.fc2", D, 4 * D)
        if context:
            shapes |= norm(f"{block}.norm_y") | norm(f"{block}.norm3")
            for part in ("q_proj", "k_proj", "v_proj", "proj"):
                shapes |= linear(f"{block}.cross_attn.{part}", D, D)
    return shapes


def upstream_shapes():
    shapes = {"language_model.model.embed_tokens.weight": (9, D)}
    shapes |= linear("language_model.lm_head", 9, D, bias=False)
    for i in range(LAYERS):
        layer = f"language_model.model.layers.{i}"
        shapes |= attention_side(layer, "") | attention_side(layer, "_moe_geo")
        shapes |= {f"{layer}.ls1.gamma": (D,), f"{layer}.ls2.gamma": (D,)}
    shapes |= {f"language_model.model.norm{side}.weight": (D,) for side in ("", "_moe_geo")}
    shapes |= {"vit_model.blocks.0.attn.qkv.weight": (6, 2)}
    shapes |= {"dino_model.encoder.layer.0.attention.attention.query.weight": (DINO, DINO)}
    shapes |= linear("dino2llm", D, DINO)
    shapes |= decoder("point_decoder", POINT) | linear("point_head.proj", 3 * PATCH**2, POINT)
    shapes |= decoder("camera_decoder", CAMERA)
    for i in range(2):
        for n in (1, 2, 3):
            shapes |= linear(f"camera_head.res_conv.{i}.res_conv{n}", CAMERA, CAMERA)
    shapes |= linear("camera_head.more_mlps.0", CAMERA, CAMERA)
    shapes |= linear("camera_head.more_mlps.2", CAMERA, CAMERA)
    shapes |= linear("camera_head.fc_t", 3, CAMERA) | linear("camera_head.fc_rot", 9, CAMERA)
    shapes |= decoder("global_points_decoder", POINT, context=True)
    return shapes | linear("global_point_head.proj", 3 * PATCH**2, POINT)


def model_shapes(config=CONFIG):
    """What a model with an expert of these sizes wants."""
    shapes = {}
    for i in range(LAYERS):
        side = attention_side("layer", "")
        shapes |= {
            name.replace("layer.", f"layers.{i}.", 1).replace("self_attn.", ""): shape
            for name, shape in side.items()
        }
        shapes |= {f"layers.{i}.{name}_scale": (D,) for name in ("attention", "mlp")}
    shapes |= {"norm.weight": (D,)} | linear("projector", D, DINO)
    heads = GeometryHeads(D, PATCH, config).state_dict()
    shapes |= {f"heads.{name}": tensor.shape for name, tensor in heads.items()}
    return {name: torch.Size(shape) for name, shape in shapes.items()}


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator).bfloat16()
        for name, shape in upstream_shapes().items()
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


# --- names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            "language_model.model.layers.27.self_attn.k_proj_moe_geo.bias",
            ("layers.27.k_proj.bias",),
        ),
        ("language_model.model.layers.3.ls1.gamma", ("layers.3.attention_scale",)),
        ("language_model.model.layers.3.ls2.gamma", ("layers.3.mlp_scale",)),
        ("language_model.model.norm_moe_geo.weight", ("norm.weight",)),
        (
            "point_decoder.blocks.4.attn.qkv.bias",
            tuple(
                f"heads.points.decoder.blocks.4.attention.{x}.bias"
                for x in ("query", "key", "value")
            ),
        ),
        ("camera_head.more_mlps.2.weight", ("heads.camera.hidden.1.weight",)),
        ("language_model.model.layers.0.self_attn.q_proj.weight", None),
        ("language_model.model.layers.0.self_attn.q_norm.weight", None),
        ("language_model.model.norm.weight", None),
        ("vit_model.blocks.0.norm1.weight", None),
        ("dino_model.layernorm.weight", None),
    ],
)
def test_names(theirs, ours):
    assert imported_names(theirs) == ours


@pytest.mark.parametrize(
    "key",
    [
        "language_model.model.layers.0.self_attn.gate_moe_geo.weight",
        "language_model.model.layers.0.ls3.gamma",
        "point_decoder.blocks.0.attn.q_norm.weight",
        "point_decoder.blocks.x.attn.qkv.weight",
        "register_token",
        "dino2llm.gamma",
    ],
)
def test_an_unknown_key_is_one_line(key):
    with pytest.raises(UpstreamError, match=f"{key} is neither") as caught:
        imported_names(key)
    assert "\n" not in str(caught.value)


def test_every_weight_has_one_source(tensors):
    names = [name for key in tensors for name in imported_names(key) or ()]
    assert len(names) == len(set(names))
    assert set(names) == set(model_shapes())


# --- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_arrive(tmp_path, tensors, shards):
    weights = read_upstream(write(tmp_path, tensors, shards), model_shapes())
    assert {name: tensor.shape for name, tensor in weights.items()} == model_shapes()
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    layer = "language_model.model.layers.1"
    for ours, theirs in {
        "layers.1.v_proj.weight": f"{layer}.self_attn.v_proj_moe_geo.weight",
        "layers.1.mlp.down_proj.weight": f"{layer}.mlp_moe_geo.down_proj.weight",
        "layers.1.mlp_scale": f"{layer}.ls2.gamma",
        "projector.bias": "dino2llm.bias",
        "heads.global_points.decoder.blocks.1.mlp_norm.bias": "global_points_decoder.blocks.1.norm3.bias",
        "heads.camera.residual.1.maps.2.weight": "camera_head.res_conv.1.res_conv3.weight",
        "heads.points.pixels.weight": "point_head.proj.weight",
    }.items():
        assert torch.equal(weights[ours], tensors[theirs]), ours


def test_imported_heads_compute_what_the_fused_weights_say(tmp_path, tensors):
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    weights = read_upstream(write(tmp_path, tensors), model_shapes())
    heads = GeometryHeads(D, PATCH, CONFIG)
    heads.load_state_dict(
        {
            name.removeprefix("heads."): tensor
            for name, tensor in weights.items()
            if name.startswith("heads.")
        }
    )
    x = torch.randn(1, 1, D)  # one patch: position 0, and attention is its value
    block = "point_decoder.blocks.0"
    fused = x @ tensors[f"{block}.attn.qkv.weight"].T + tensors[f"{block}.attn.qkv.bias"]
    value = fused.unflatten(-1, (3, D))[..., 2, :]
    expected = value @ tensors[f"{block}.attn.proj.weight"].T + tensors[f"{block}.attn.proj.bias"]
    attention = heads.points.decoder.blocks[0].attention
    angles = grid_angles((1, 1), D // 2, torch.device("cpu"))
    torch.testing.assert_close(attention(x, x, angles), expected)
    query, key = fused.unflatten(-1, (3, D))[..., :2, :].unbind(-2)
    torch.testing.assert_close(attention.query(x), query)
    torch.testing.assert_close(attention.key(x), key)


def test_a_head_that_is_switched_off_is_skipped(tmp_path, tensors):
    config = HeadsConfig(
        width=D,
        blocks=BLOCKS,
        heads=2,
        point_width=POINT,
        camera_width=CAMERA,
        global_points=False,
        confidence=True,
    )
    weights = read_upstream(write(tmp_path, tensors), model_shapes(config))
    # The published checkpoint has no confidence head: the model's keeps what it has.
    heads = {name.split(".")[1] for name in weights if name.startswith("heads.")}
    assert heads == {"points", "camera"}


def refused(folder, shapes=None):
    with pytest.raises(UpstreamError) as caught:
        read_upstream(folder, model_shapes() if shapes is None else shapes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_key(tmp_path, tensors):
    for name in ("point_head.proj.bias", "dino2llm.weight"):
        del tensors[name]
    message = refused(write(tmp_path, tensors))
    assert "nothing for projector.weight and 1 more" in message


def test_wrong_shape(tmp_path, tensors):
    tensors["point_decoder.blocks.0.attn.qkv.weight"] = torch.zeros(3 * D, D + 1)
    message = refused(write(tmp_path, tensors))
    assert f"point_decoder.blocks.0.attn.qkv.weight is [{3 * D}, {D + 1}]" in message
    assert f"wants [{3 * D}, {D}]" in message


def test_unknown_geometry_key(tmp_path, tensors):
    tensors["camera_head.fc_fov.weight"] = torch.zeros(2, CAMERA)
    assert "camera_head.fc_fov.weight is neither" in refused(write(tmp_path, tensors))


def test_more_layers_than_the_model(tmp_path, tensors):
    shapes = {name: s for name, s in model_shapes().items() if not name.startswith("layers.1.")}
    assert "has no layers.1." in refused(write(tmp_path, tensors), shapes)


def test_empty_folder_and_broken_files(tmp_path, tensors):
    assert "neither model.safetensors nor" in refused(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    assert "is no safetensors file" in refused(tmp_path)
    (tmp_path / INDEX).write_text("[]")
    assert "has no weight_map" in refused(tmp_path)


@pytest.mark.parametrize(
    "name", ["../out.safetensors", "/etc/out.safetensors", "a/b.safetensors", "model.bin", ".."]
)
def test_nothing_outside_of_the_folder_and_no_other_format(tmp_path, tensors, name):
    folder = tmp_path / "in"
    folder.mkdir()
    write(tmp_path, tensors).joinpath(WEIGHTS).rename(tmp_path / "out.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))
    assert "only safetensors files of the folder are read" in refused(folder)


def test_an_index_that_does_not_hold(tmp_path, tensors):
    write(tmp_path, tensors, shards=2)
    index = json.loads((tmp_path / INDEX).read_text())
    first, second = sorted(set(index["weight_map"].values()))
    index["weight_map"]["dino2llm.gone"] = first
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert f"{first} lacks dino2llm.gone" in refused(tmp_path)
    (tmp_path / second).unlink()
    del index["weight_map"]["dino2llm.gone"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert f"names {second}, which is not in" in refused(tmp_path)
