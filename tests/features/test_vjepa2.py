"""V-JEPA 2 on a tiny random twin against a plain run of transformers' stock class."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VJEPA2Config, VJEPA2Model

from spatialprior.features.encoder import EncoderError
from spatialprior.features.vjepa2 import VJepa2, VJepa2Config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = VJEPA2Config(
        patch_size=16, crop_size=64, frames_per_clip=8, hidden_size=48, num_attention_heads=2,
        num_hidden_layers=3, mlp_ratio=2, pred_hidden_size=24, pred_num_attention_heads=2,
        pred_num_hidden_layers=1, pred_num_mask_tokens=2, initializer_range=0.2,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(tmp_path / "twin")
    return tmp_path / "twin"


def encoder(folder: Path, **settings) -> VJepa2:
    return VJepa2(VJepa2Config(**{"path": str(folder), "size": (64, 64), **settings}))


def frames(count: int, side: int = 64, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def stock_maps(folder: Path, images: torch.Tensor) -> torch.Tensor:
    """Tokens as ``tubelets C rows cols``, by the stock class alone."""
    model = VJEPA2Model.from_pretrained(folder).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    video = (images / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        tokens = model.get_vision_features(video[None])
    side = images.shape[-1] // 16
    return tokens.reshape(len(images) // 2, side, side, -1).permute(0, 3, 1, 2)


def test_equals_the_stock_model_each_tubelet_given_to_its_frames(folder):
    images = frames(6)
    found, expected = encoder(folder)(images).values, stock_maps(folder, images)
    assert found.shape == (6, 48, 4, 4)
    for frame in range(6):
        torch.testing.assert_close(found[frame], expected[frame // 2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[1], found[2], atol=1e-2)


@pytest.mark.parametrize("count", [1, 5])
def test_odd_clips_repeat_their_last_frame(folder, count):
    images = frames(count)
    found = encoder(folder)(images).values
    expected = stock_maps(folder, torch.cat([images, images[-1:]]))
    assert len(found) == count
    torch.testing.assert_close(found[-1], expected[-1], atol=1e-5, rtol=1e-5)


def test_frames_see_each_other(folder):
    images = frames(4)
    other = torch.cat([images[:2], frames(2, seed=8)])
    found, changed = encoder(folder, batch=1)(images).values, encoder(folder)(other).values
    assert (found[0] - changed[0]).abs().max() > 1e-3


def test_another_input_size_has_its_own_positions(folder):
    images = frames(2, side=96)
    config = VJEPA2Config.from_pretrained(folder)
    config.crop_size = 96
    model = VJEPA2Model.from_pretrained(folder, config=config)
    assert model.encoder.layer[0].attention.grid_size == 6
    found = encoder(folder, size=(96, 96))
    assert found.module.encoder.layer[0].attention.grid_size == 6
    assert found(images).grid == (6, 6)
    # Positions of the folder's own 4 x 4 grid would give other features.
    wrong = stock_maps(folder, images)
    assert (found(images).values[0] - wrong[0]).abs().max() > 1e-2


def test_early_exit_skips_later_layers_and_the_predictor(folder):
    early = encoder(folder, layer=1)
    calls = []
    for index, layer in enumerate(early.module.encoder.layer):
        layer.register_forward_pre_hook(lambda m, args, index=index: calls.append(index))
    early.module.predictor.register_forward_pre_hook(lambda m, args: calls.append("predictor"))
    found = early(frames(2)).values
    assert calls == [0, 1]
    last = encoder(folder, layer=2)(frames(2)).values
    with torch.no_grad():
        norm = early.module.encoder.layernorm
        after = norm(last.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(after, encoder(folder)(frames(2)).values, atol=1e-5, rtol=1e-5)
    stock = VJEPA2Model.from_pretrained(folder).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    video = (frames(2) / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        hidden = stock(video[None], skip_predictor=True, output_hidden_states=True).hidden_states
    expected = hidden[2][0].reshape(4, 4, -1).permute(2, 0, 1)  # 0 is the embedding
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


def test_box_checksum_revision_random(folder):
    images = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8)
    for fit, box in {"stretch": (0, 0, 128, 64), "crop": (32, 0, 96, 64)}.items():
        found, ahead = encoder(folder, fit=fit)(images), encoder(folder, fit=fit).patch_grid
        assert found.box == box == ahead.box((64, 128))
        assert found.grid == ahead((64, 128))
    one = encoder(folder)
    before = one.checksum()
    one(images)
    assert one.checksum() == before == encoder(folder).checksum()
    random = [encoder(folder, weights="random", seed=seed) for seed in (1, 1, 2)]
    sums = [item.checksum() for item in random]
    assert sums[0] == sums[1] != sums[2] and sums[0] != before
    assert encoder(folder).channels == 48 == random[0].channels
    assert one.revision == encoder(folder).revision != random[0].revision


def test_errors_are_one_line(folder, tmp_path):
    def message(where=folder, **settings) -> str:
        with pytest.raises(EncoderError) as caught:
            encoder(where, **settings).module  # noqa: B018
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no embedded nano" in message("nano")
    assert "square" in message(fit="aspect") and "square" in message(size=(64, 96))
    assert "layers 0 to 2" in message(layer=3)
    (tmp_path / "empty").mkdir()
    assert "no config.json" in message(tmp_path / "empty")
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.0.mlp.fc1.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights, such as encoder.layer.0.mlp.fc1.weight" in message()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds no model.safetensors" in message()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "vit"}))
    assert "is a vit, not vjepa2" in message()


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_a_marker_changes_the_token_on_it(folder, fit, sees_marker):
    sees_marker(encoder(folder, size=(128, 128), fit=fit))
