"""The adapter to VGGT on a stand-in of the package's interface; the real package was not run here."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spatialprior.features.encoder import EncoderError
from spatialprior.features.vggt import Vggt, VggtConfig


class FakeAggregator(nn.Module):
    """``(list of B S P 2C, index of the first patch token)`` of images ``B S 3 H W`` in [0, 1]."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.special = nn.Parameter(torch.randn(5, embed_dim))
        self.patches = nn.Conv2d(3, embed_dim, 14, 14)
        self.blocks = nn.ModuleList(nn.Linear(embed_dim, embed_dim) for _ in range(2))

    def forward(self, images):
        batch, frames = images.shape[:2]
        patches = self.patches(images.flatten(0, 1)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.special.expand(batch * frames, -1, -1), patches], dim=1)
        tokens = tokens.unflatten(0, (batch, frames))
        outputs = []
        for block in self.blocks:
            within = block(tokens)
            tokens = within + within.mean(1, keepdim=True)  # what frames tell each other
            outputs.append(torch.cat([within, tokens], dim=-1))
        return outputs, 5


class FakeVGGT(nn.Module):
    def __init__(self, img_size=518, patch_size=14, embed_dim=1024):
        super().__init__()
        self.aggregator = FakeAggregator(embed_dim)
        self.camera_head = nn.Linear(2 * embed_dim, 9)


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("vggt.models.vggt")
    module.VGGT = FakeVGGT
    monkeypatch.setitem(sys.modules, "vggt", types.ModuleType("vggt"))
    monkeypatch.setitem(sys.modules, "vggt.models", types.ModuleType("vggt.models"))
    monkeypatch.setitem(sys.modules, "vggt.models.vggt", module)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = FakeVGGT(embed_dim=6)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path, model


def encoder(path, **settings) -> Vggt:
    return Vggt(VggtConfig(**{"path": str(path), "size": (42, 42), "embed_dim": 6, **settings}))


def frames(height: int = 28, width: int = 42) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, 3, height, width), generator=generator, dtype=torch.uint8)


def test_patch_tokens_of_the_last_block(package, weights):
    folder, model = weights
    found = encoder(folder, size=(28, 42), fit="stretch")(frames())
    with torch.no_grad():
        outputs, start = model.aggregator(frames()[None] / 255)
    expected = outputs[-1][0, :, start:].reshape(3, 2, 3, 12).permute(0, 3, 1, 2)
    torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)
    assert encoder(folder).channels == 12 == found.values.shape[1]


def test_frames_see_each_other_and_boxes_hold(package, weights):
    one = encoder(weights[0], batch=1)
    both, alone = one(frames()), one(frames()[:1])
    assert (both.values[0] - alone.values[0]).abs().max() > 1e-3
    assert both.box == (0, 0, 42, 28)
    assert encoder(weights[0], fit="crop")(frames()).box == (7, 0, 35, 28)


def test_heads_are_dropped_checksum_and_revision_stay(package, weights):
    one = encoder(weights[0])
    before = one.checksum()
    one(frames())
    assert one.checksum() == before
    assert not [name for name in one.module.state_dict() if "head" in name]
    assert len(one.revision) == 64
    drawn = [encoder("/nowhere", weights="random", seed=seed).checksum() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_errors_say_what_to_type(package, weights, monkeypatch):
    with pytest.raises(EncoderError, match="no embedded nano"):
        Vggt.check(VggtConfig(path="nano"))
    with pytest.raises(EncoderError, match="does not fit VGGT"):
        encoder(weights[0], embed_dim=8).module  # noqa: B018
    monkeypatch.setitem(sys.modules, "vggt.models.vggt", None)
    with pytest.raises(EncoderError, match="pip install --no-deps 'git"):
        encoder(weights[0]).module  # noqa: B018


def test_a_marker_changes_the_token_on_it(package, weights, sees_marker):
    sees_marker(encoder(weights[0], size=(112, 140), fit="aspect"))
