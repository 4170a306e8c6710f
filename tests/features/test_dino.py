"""DINOv2 and DINOv3 on tiny random twins against a plain run of timm's stock classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from timm.models import register_model
from timm.models.eva import _create_eva
from timm.models.vision_transformer import _create_vision_transformer

from spatialprior.features.dino import DinoV2, DinoV2Config, DinoV3, DinoV3Config, _outline
from spatialprior.features.encoder import EncoderError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@register_model
def vit_twin_patch14_dinov2(pretrained: bool = False, **kwargs):
    sizes = dict(patch_size=14, embed_dim=24, depth=3, num_heads=2, init_values=0.5, reg_tokens=2)
    return _create_vision_transformer(
        "vit_small_patch14_reg4_dinov2", pretrained=pretrained, **{**sizes, **kwargs}
    )


@register_model
def vit_twin_patch16_dinov3(pretrained: bool = False, **kwargs):
    sizes = dict(patch_size=16, embed_dim=32, depth=3, num_heads=2, init_values=0.5,
                 num_reg_tokens=4, use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3",
                 rope_temperature=100, use_fc_norm=False, qkv_bias=False,
                 dynamic_img_size=True)  # fmt: skip
    return _create_eva("vit_small_patch16_dinov3", pretrained=pretrained, **{**sizes, **kwargs})


TWINS = {
    "v2": (DinoV2, DinoV2Config, "vit_twin_patch14_dinov2", 14),
    "v3": (DinoV3, DinoV3Config, "vit_twin_patch16_dinov3", 16),
}


def saved(name: str, folder: Path, seed: int = 0) -> Path:
    """A folder as timm writes it, weights far from their initial values."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=0)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": name}))
    return folder


def frames(count: int = 3, height: int = 60, width: int = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.fixture(params=list(TWINS))
def twin(request, tmp_path):
    cls, config, name, patch = TWINS[request.param]
    folder = saved(name, tmp_path / "weights")

    def make(**settings):
        return cls(
            config(
                **{"path": str(folder), "model": name, "size": (4 * patch, 4 * patch), **settings}
            )
        )

    make.folder, make.name, make.patch = folder, name, patch
    return make


def stock(make) -> torch.nn.Module:
    model = timm.create_model(make.name, num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(load_file(make.folder / "model.safetensors"))
    return model


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images / 255 - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
def test_equals_the_stock_model_and_drops_prefix_tokens(twin, layer):
    images = frames(2, 3 * twin.patch, 5 * twin.patch)  # not square, not the trained size
    found = twin(size=(3 * twin.patch, 5 * twin.patch), layer=layer)(images)
    with torch.no_grad():
        if layer < 0:
            tokens = stock(twin).forward_features(normalised(images))
            prefix = {14: 3, 16: 5}[twin.patch]
            expected = tokens[:, prefix:].transpose(1, 2).reshape(2, -1, 3, 5)
        else:
            expected = stock(twin).forward_intermediates(
                normalised(images), indices=[layer], intermediates_only=True
            )[0]
    assert found.grid == (3, 5)
    torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)


def test_early_exit_skips_later_blocks_and_changes_nothing(twin):
    encoder = twin(layer=1)
    calls = []
    for index, block in enumerate(encoder.module.blocks):
        block.register_forward_pre_hook(lambda m, args, index=index: calls.append(index))
    early = encoder(frames(1)).values
    assert calls == [0, 1]
    with torch.no_grad():
        encoder.module.forward_features(torch.zeros(1, 3, 4 * twin.patch, 4 * twin.patch))
    assert calls == [0, 1, 0, 1, 2]
    torch.testing.assert_close(encoder(frames(1)).values, early, atol=0, rtol=0)


def test_boxes_tell_the_pixels_seen(twin):
    whole = twin()(frames())
    assert whole.box == (0, 0, 90, 60)
    rows, cols = whole.grid
    assert cols > rows  # the frame's own aspect
    crop = twin(fit="crop")(frames())
    assert crop.grid == (4, 4) and crop.box == (15, 0, 75, 60)


@pytest.mark.parametrize("fit", ["aspect", "stretch", "crop"])
def test_the_grid_is_known_beforehand(twin, fit):
    encoder = twin(fit=fit)
    found = encoder(frames(1))
    assert (found.grid, found.box) == (
        encoder.patch_grid((60, 90)),
        encoder.patch_grid.box((60, 90)),
    )


def test_pooled_batched_and_held_in_bfloat16(twin):
    full, single = twin()(frames()), twin(batch=1)(frames())
    torch.testing.assert_close(full.values, single.values, atol=1e-5, rtol=1e-5)
    pooled = twin(pool=(2, 2))(frames())
    assert pooled.grid == (2, 2) and pooled.box == full.box
    half = twin(dtype="bfloat16")(frames())
    assert half.values.dtype == torch.bfloat16
    torch.testing.assert_close(half.values.float(), full.values, atol=0.15, rtol=0.1)


def test_frozen_and_its_checksum_stays(twin):
    encoder = twin()
    state = torch.random.get_rng_state()
    before = encoder.checksum()
    assert torch.equal(torch.random.get_rng_state(), state)
    encoder(frames())
    assert encoder.checksum() == before == twin().checksum()
    assert not any(p.requires_grad for p in encoder.module.parameters())
    assert encoder.channels == encoder(frames(1)).values.shape[1]


def test_random_weights_follow_the_seed_and_read_no_file(twin):
    def random(seed):
        return twin(weights="random", seed=seed, path="/nowhere")

    assert random(1).checksum() == random(1).checksum() != random(2).checksum()
    assert random(1).settings() != random(2).settings()
    assert random(1).channels == twin().channels


def test_revision_is_the_digest_of_the_files(twin, tmp_path):
    again = saved(twin.name, tmp_path / "snapshots" / "latest")  # a name is no commit
    other = saved(twin.name, tmp_path / "other", seed=1)
    encoder = twin()
    assert encoder.revision == twin(path=str(again)).revision != twin(path=str(other)).revision
    assert encoder._module is None  # told without loading


def test_a_file_alone_is_enough(twin):
    file = twin(path=str(twin.folder / "model.safetensors"))
    assert file.checksum() == twin().checksum()


def test_hub_id_reads_the_pinned_snapshot(twin, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--twin"
    saved(twin.name, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for settings in ({}, {"revision": COMMIT}, {"path": "hf-hub:owner/twin"}):
        encoder = twin(**{"path": "owner/twin", **settings})
        assert encoder.revision == COMMIT
        assert encoder.checksum() == twin().checksum()
    with pytest.raises(EncoderError, match=r"revision abc .*hf download"):
        twin(path="owner/twin", revision="abc").module  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nano"}, "no embedded nano model; give path=FOLDER"),
        ({"layer": 3}, "blocks 0 to 2, or -1"),
        ({"layer": -2}, "blocks 0 to 2, or -1"),
        ({"model": "vit_unheard_of"}, "timm has no such model; it has"),
        ({"model": "test_convnext"}, "no plain vision transformer"),
        ({"model": "vit_tiny_r_s16_p8_224"}, "patches of"),
    ],
)
def test_errors_before_loading(twin, settings, message):
    encoder = twin(**settings)
    with pytest.raises(EncoderError, match=message) as caught:
        encoder.check(encoder.config)
    assert "\n" not in str(caught.value)


def test_errors_of_files(twin, tmp_path):
    def message(**settings) -> str:
        with pytest.raises(EncoderError) as caught:
            twin(**settings).module  # noqa: B018
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "does not exist" in message(path=str(tmp_path / "none"))
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"")
    assert "holds no model.safetensors" in message(path=str(tmp_path / "pickle"))
    assert "drop the revision" in message(revision="main")
    weights = load_file(twin.folder / "model.safetensors")
    weights.pop("norm.weight")
    save_file(weights, twin.folder / "model.safetensors")
    assert "does not fit" in message() and "norm.weight" in message()
    (twin.folder / "config.json").write_text('{"architecture": "vit_other"}')
    assert "set model=vit_other" in message()


def test_defaults_are_timm_names_of_the_right_patch():
    for cls in (DinoV2, DinoV3):
        cls.check(cls.Config())
        assert cls(cls.Config()).channels == 1024
        # "After the final norm" must be true of them: timm moves it behind the pooling in some models.
        assert isinstance(_outline(cls.Config().model).norm, torch.nn.LayerNorm)


@pytest.mark.parametrize("fit", ["aspect", "stretch", "crop"])
def test_a_marker_changes_the_token_on_it(twin, fit, sees_marker):
    sees_marker(twin(size=(8 * twin.patch, 8 * twin.patch), fit=fit))
