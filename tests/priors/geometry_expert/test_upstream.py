"""Import of the published checkpoint, on a small folder of the same names. Never run on the real weights."""

from __future__ import annotations

import json

import pytest
import torch
from upstream_folder import Sizes, attention_side, linear, upstream_tensors, write

from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.priors.geometry_expert.heads.geometry_heads import GeometryHeads
from spatialprior.priors.geometry_expert.heads.rope2d import grid_angles
from spatialprior.priors.geometry_expert.upstream import INDEX, WEIGHTS, read_upstream
from spatialprior.priors.geometry_expert.upstream_names import UpstreamError, imported_names

SIZES = Sizes()
LAYERS, BLOCKS, D, DINO, PATCH = SIZES.layers, SIZES.blocks, SIZES.d, SIZES.dino, SIZES.patch
POINT, CAMERA = SIZES.point, SIZES.camera
CONFIG = HeadsConfig(width=D, blocks=BLOCKS, heads=2, point_width=POINT, camera_width=CAMERA)


def model_shapes(config=CONFIG):
    """What a model with an expert of these sizes wants."""
    shapes = {}
    for i in range(LAYERS):
        side = attention_side(SIZES, "layer", "")
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
    return upstream_tensors(SIZES)


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
