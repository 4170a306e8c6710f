"""Tiny random models of the stock diffusers classes, in diffusers' layout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    DDIMScheduler,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from spatialprior.features import encoder as encoder_module
from spatialprior.features.align import onto_tokens
from spatialprior.features.encoder import FeatureEncoder

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 4,
    "rope_max_seq_len": 32,
}
WIDTHS = (8, 8, 16)


def wan_vae():
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 1.5, 1.0, 2.0],
    )


def wan_t2v():
    return {"transformer": WanTransformer3DModel(**WAN), "vae": wan_vae()}


def wan_vace():
    # 2 * z_dim channels of latents and 8 * 8 of the mask; hints at block 0, at the feature's, and after it.
    transformer = WanVACETransformer3DModel(**WAN, vace_layers=[0, 2, 3], vace_in_channels=72)
    return {"transformer": transformer, "vae": wan_vae()}


def sd_vae():
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    return {"vae": vae}


def sd21():
    unet = UNet2DConditionModel(
        in_channels=4,
        block_out_channels=WIDTHS,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    schedule = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return {"unet": unet, "scheduler": schedule, **sd_vae()}


def svd():
    unet = UNetSpatioTemporalConditionModel(
        in_channels=8,
        block_out_channels=(32, 32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=12,
        num_attention_heads=(2, 2, 4),
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        latent_channels=4,
        scaling_factor=0.5,
    )
    clip = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=12,
    )
    return {"unet": unet, "vae": vae, "image_encoder": CLIPVisionModelWithProjection(clip)}


BUILDERS = {f.__name__: f for f in (wan_t2v, wan_vace, sd21, svd, sd_vae)}


@pytest.fixture(scope="session")
def diffusers_twin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an encoder's tiny twin, by the encoder's name (read-only by convention)."""
    folders: dict[str, Path] = {}

    def twin(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("twins") / name
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                for part, model in BUILDERS[name]().items():
                    model.save_pretrained(folders[name] / part)
        return folders[name]

    return twin


@pytest.fixture
def sees_marker(monkeypatch: pytest.MonkeyPatch) -> Callable[[FeatureEncoder], None]:
    """Checks that a changed patch of the frame changes most the token that lies on it, in 4:3 and in 16:9."""
    # Noise follows a frame's pixels: here both frames get the same.
    monkeypatch.setattr(encoder_module, "frame_seed", lambda image, seed: seed)

    def check(encoder: FeatureEncoder) -> None:
        generator = torch.Generator().manual_seed(0)
        for height, width in ((96, 128), (72, 128)):
            images = torch.randint(0, 256, (2, 3, height // 8, width // 8), generator=generator)
            images = images.repeat_interleave(8, -1).repeat_interleave(8, -2).to(torch.uint8)
            for share_x, share_y in ((0.35, 0.3), (0.65, 0.6)):
                x, y = round(share_x * width), round(share_y * height)
                marked = images.clone()
                marked[:, :, y - 8 : y + 8, x - 8 : x + 8] ^= 255
                before, after = encoder(images), encoder(marked)
                energy = (
                    (after.values.float() - before.values.float()).square().sum(1, keepdim=True)
                )
                whole = (0.0, 0.0, float(width), float(height))
                grid = (height // 8, width // 8)
                tokens, seen = onto_tokens(replace(before, values=energy[:1]), grid, whole)
                best = int(tokens[:, 0].masked_fill(~seen, -1).argmax())
                row, col = divmod(best, grid[1])
                cells = before.cell_boxes()[0, 0]
                reach_x, reach_y = (float(cells[2 + i] - cells[i]) + 8 for i in (0, 1))
                off = (abs(8 * col + 4 - x), abs(8 * row + 4 - y))
                assert off[0] <= reach_x and off[1] <= reach_y, (off, before.grid, before.box)

    return check
