"""DINOv2 with registers on a tiny random twin against a plain run of transformers' stock class."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from spatialprior.features import dinov2_reg
from spatialprior.features.cache import FeatureCache
from spatialprior.features.cached import CachedEncoder
from spatialprior.features.choice import EncoderChoice
from spatialprior.features.dinov2_reg import DinoV2Registers, DinoV2RegistersConfig
from spatialprior.features.encoder import EncoderError
from spatialprior.features.fit import PatchGrid

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def saved(folder: Path, seed: int = 0, **settings) -> Path:
    """A folder as transformers writes it, weights far from their initial values; 5 registers, not 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = {
            "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2,
            "image_size": 56, "patch_size": 14, "num_register_tokens": 5,
        }  # fmt: skip
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**{**config, **settings}))
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "twin")


def encoder(folder: Path | str, **settings) -> DinoV2Registers:
    return DinoV2Registers(
        DinoV2RegistersConfig(**{"path": str(folder), "size": (56, 56), **settings})
    )


def frames(count: int = 3, height: int = 60, width: int = 90, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def stock_maps(folder: Path, images: torch.Tensor, layer: int = -1, prefix: int = 6, patch=14):
    """Maps of each frame alone, by the stock class alone."""
    model = Dinov2WithRegistersModel.from_pretrained(folder).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
    found = []
    for one in pixels.split(1):
        with torch.no_grad():
            output = model(one, output_hidden_states=True)
        # hidden_states[0] is the embedding.
        tokens = output.last_hidden_state if layer < 0 else output.hidden_states[layer + 1]
        found.append(tokens[:, prefix:].transpose(1, 2))
    return torch.cat(found).unflatten(-1, tuple(side // patch for side in images.shape[-2:]))


@pytest.mark.parametrize("layer", [-1, 0, 1, 2])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (2, 8)])  # as trained; another; as many cells
def test_equals_the_stock_model_on_each_frame_alone(folder, layer, grid):
    size = (14 * grid[0], 14 * grid[1])
    images = frames(3, *size)
    found = encoder(folder, size=size, layer=layer)(images)
    expected = stock_maps(folder, images, layer)
    assert found.grid == grid == expected.shape[2:]
    torch.testing.assert_close(found.values, expected, atol=1e-6, rtol=1e-6)


def test_no_frame_sees_another(folder):
    one = encoder(folder)
    pixels = frames(3, 56, 56).float().div(255).requires_grad_()
    one.encode_pixels(one.module, pixels, [0, 0, 0])[1].square().sum().backward()
    assert (pixels.grad[[0, 2]] == 0).all() and (pixels.grad[1] != 0).any()
    images, others = frames(3), frames(3, seed=8)
    others[1] = images[1]
    torch.testing.assert_close(one(others).values[1], one(images).values[1], atol=1e-6, rtol=1e-6)


def test_hub_checkpoints_have_older_names(folder):
    # transformers has renamed these; facebook's files have the names of the first release.
    renamed = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
    }
    before = encoder(folder).checksum()
    weights = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for new, old in renamed.items():
            name = name if old in name else name.replace(new, old)
        weights[name] = tensor
    assert "encoder.layer.0.attention.attention.query.weight" in weights
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert encoder(folder).checksum() == before


def test_early_exit_skips_later_blocks(folder):
    early = encoder(folder, layer=1)
    calls = []
    for index, block in enumerate(early.module.encoder.layer):
        block.register_forward_pre_hook(lambda m, args, index=index: calls.append(index))
    early(frames(1))
    assert calls == [0, 1]


def test_patches_are_the_model_s_own(tmp_path):
    other = saved(tmp_path / "eight", patch_size=8, image_size=[32, 32])
    images = frames(2, 24, 40)
    found = encoder(other, size=(24, 40))
    assert found.multiple == 8 and found.channels == 48
    torch.testing.assert_close(
        found(images).values, stock_maps(other, images, patch=8), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("fit", ["aspect", "stretch", "crop"])
@pytest.mark.parametrize("frame", [(60, 90), (90, 33), (10, 12)])
def test_the_grid_is_known_beforehand(folder, fit, frame):
    one = encoder(folder, size=(28, 56), fit=fit)
    grid, box = one.patch_grid(frame), one.patch_grid.box(frame)
    assert one._module is None
    found = one(frames(1, *frame))
    assert (found.grid, found.box) == (grid, box)


def test_batched_pooled_and_held_in_bfloat16(folder):
    full = encoder(folder)(frames())
    single = encoder(folder, batch=1)(frames())
    torch.testing.assert_close(full.values, single.values, atol=1e-6, rtol=1e-6)
    pooled = encoder(folder, pool=(2, 2))(frames())
    assert pooled.grid == (2, 2) and pooled.box == full.box == (0, 0, 90, 60)
    half = encoder(folder, dtype="bfloat16")(frames())
    assert half.values.dtype == torch.bfloat16
    assert (half.values.float() - full.values).abs().mean() < 0.05 * full.values.std()


def test_normalised_as_the_preprocessor_says(folder):
    before, images = encoder(folder), frames(2, 56, 56)
    settings = before.settings()
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    after = encoder(folder)
    assert after.settings() != settings  # or a cache would return the other's maps
    model = Dinov2WithRegistersModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = model((images / 255 - 0.5) / 0.25).last_hidden_state[:, 6:]
    expected = tokens.transpose(1, 2).unflatten(-1, (4, 4))
    torch.testing.assert_close(after(images).values, expected, atol=1e-6, rtol=1e-6)


def test_frozen_checksum_revision_random(folder, tmp_path):
    one = encoder(folder)
    state = torch.random.get_rng_state()
    before = one.checksum()
    assert torch.equal(torch.random.get_rng_state(), state)
    one(frames())
    assert one.checksum() == before == encoder(folder).checksum()
    assert not any(p.requires_grad for p in one.module.parameters())
    random = [encoder(folder, weights="random", seed=seed) for seed in (1, 1, 2)]
    sums = [item.checksum() for item in random]
    assert sums[0] == sums[1] != sums[2] and sums[0] != before
    assert one.channels == 48 == random[0].channels
    copy, other = encoder(saved(tmp_path / "copy")), encoder(saved(tmp_path / "other", seed=1))
    assert one.revision == copy.revision != other.revision
    assert one.revision != random[0].revision and copy._module is None


def test_cached_like_any_other(folder, tmp_path):
    cache = FeatureCache(tmp_path / "cache", 10**8)
    cold = CachedEncoder(encoder(folder), cache)(frames(), [0, 1, 2])
    again = encoder(folder)
    warm = CachedEncoder(again, cache)(frames(), [0, 1, 2])
    assert torch.equal(cold.values, warm.values) and cold.box == warm.box
    assert again._module is None and cache.hits == 3


def test_hub_id_reads_the_pinned_snapshot(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--twin"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for revision in (None, COMMIT):
        found = encoder("owner/twin", revision=revision)
        assert found.revision == COMMIT and found.checksum() == encoder(folder).checksum()


def test_nano_is_drawn_from_the_seed_and_read_once_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(dinov2_reg, "NANO", tmp_path)
    shutil.copytree(
        Path(dinov2_reg.__file__).parent / "nano" / "dinov2_reg", tmp_path / "dinov2_reg",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )  # fmt: skip
    with pytest.raises(EncoderError, match=r"path=nano: .* set weights=random, or path") as caught:
        DinoV2Registers.check(DinoV2RegistersConfig(path="nano"))
    assert "\n" not in str(caught.value)
    nano = encoder("nano", weights="random", size=(64, 64))
    assert (nano.channels, nano.multiple) == (64, 8)
    assert len(nano.module.encoder.layer) == 3
    assert nano(frames(2, 64, 64)).values.shape == (2, 64, 8, 8)
    config = Dinov2WithRegistersConfig.from_pretrained(tmp_path / "dinov2_reg")
    assert (config.image_size, config.num_register_tokens, config.drop_path_rate) == (64, 4, 0)
    torch.manual_seed(5)
    model = Dinov2WithRegistersModel(config)
    model.save_pretrained(tmp_path / "dinov2_reg")
    trained, images = encoder("nano", size=(64, 64)), frames(2, 64, 64)
    expected = stock_maps(tmp_path / "dinov2_reg", images, prefix=5, patch=8)
    torch.testing.assert_close(trained(images).values, expected, atol=1e-6, rtol=1e-6)
    random = encoder("nano", weights="random", size=(64, 64))  # a control stays one
    assert random.checksum() == nano.checksum() != trained.checksum()


def test_the_embedded_configuration_is_there():
    choice = EncoderChoice.of({"kind": "dinov2_reg", "path": "nano", "weights": "random"})
    choice.check()
    assert choice.build().patch_grid((48, 64)) == (56, 75)  # of the default 518 x 518
    lists = EncoderChoice.of({**choice.to_dict(), "size": [64, 64], "pool": [2, 3]})  # as YAML has
    assert lists.build().patch_grid == PatchGrid((64, 64), "aspect", 8, (2, 3))


def test_errors_are_one_line(folder, tmp_path):
    def message(where=folder, **settings) -> str:
        with pytest.raises(EncoderError) as caught:
            encoder(where, **settings).module  # noqa: B018
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "blocks 0 to 2, or -1" in message(layer=3)
    assert "blocks 0 to 2, or -1" in message(layer=-2)
    assert "takes multiples of 14" in message(size=(64, 64), fit="crop")
    assert "drop the revision" in message(revision="main")
    assert "does not exist" in message(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in message(tmp_path / "empty")
    weights = load_file(folder / "model.safetensors")
    norm = weights.pop("layernorm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights, such as layernorm.weight" in message()
    weights["layernorm.weight"] = norm[:-1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot be loaded" in message()
    (folder / "model.safetensors").write_bytes(b"no safetensors")
    assert "cannot be loaded" in message()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds no model.safetensors" in message()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "patch_size": [14, 7]}))
    assert "patch_size must have two equal sides" in message()
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "dinov2"}))
    assert "is a dinov2, not dinov2_with_registers" in message()


def test_defaults_are_those_of_the_paper():
    config = DinoV2RegistersConfig()
    assert config.path == "facebook/dinov2-with-registers-large"
    assert (config.size, config.layer) == ((518, 518), -1)


@pytest.mark.parametrize("fit", ["aspect", "stretch", "crop"])
def test_a_marker_changes_the_token_on_it(folder, fit, sees_marker):
    sees_marker(encoder(folder, size=(112, 112), fit=fit))
