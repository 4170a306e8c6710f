from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file

from spatialprior.generator import package
from spatialprior.generator.__main__ import RECIPE, main, make
from spatialprior.generator.clips import Clips, render_clips
from spatialprior.generator.config import ClipsConfig, GeneratorConfig, GeneratorError, load_config
from spatialprior.generator.evaluate import denoiser, flow_error, psnr, zero
from spatialprior.generator.flow import build_transformer
from spatialprior.generator.gaussian import GaussianDenoiser
from spatialprior.generator.vae import decode, encode

TINY = {
    "clips": {
        "image_size": 16,
        "render_scale": 1,
        "clips_per_room": 2,
        "train_rooms": 4,
        "val_rooms": 2,
    },
    "vae": {
        "model": {
            "base_dim": 4,
            "z_dim": 4,
            "dim_mult": [1, 1, 1],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True],
            "scale_factor_spatial": 4,
            "scale_factor_temporal": 2,
        },
        "steps": 4,
        "single_frames": 2,
        "clips": 1,
    },
    "transformer": {
        "model": {
            "num_attention_heads": 1,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": 8,
            "freq_dim": 8,
            "ffn_dim": 16,
            "num_layers": 1,
            "rope_max_seq_len": 16,
        },
        "steps": 4,
        "single_frames": 2,
        "clips": 1,
    },
}


def write_recipe(folder: Path, **changes: object) -> Path:
    path = folder / "tiny.yaml"
    recipe = {**TINY, **changes}
    clips = {**TINY["clips"], "cache_dir": str(folder / "cache")}
    path.write_text(yaml.safe_dump({**recipe, "clips": clips}))
    return path


@pytest.fixture(scope="module")
def shipped() -> tuple[AutoencoderKLWan, WanTransformer3DModel]:
    vae, transformer = (
        cls.from_pretrained(
            package.FOLDER / name, torch_dtype=torch.float32, local_files_only=True
        ).eval()
        for cls, name in ((AutoencoderKLWan, "vae"), (WanTransformer3DModel, "transformer"))
    )
    return vae, transformer


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> Clips:
    config = load_config(RECIPE).clips
    config.val_rooms, config.cache_dir = 4, str(tmp_path_factory.mktemp("cache"))
    return Clips(config, "val")


@pytest.fixture(scope="module")
def stills(held_out) -> torch.Tensor:
    return held_out.stills(list(range(len(held_out))), [0] * len(held_out))


def test_shipped_weights_are_small_and_of_the_committed_recipe(shipped):
    assert package.size_of(package.FOLDER) < 10_000_000
    record = json.loads((package.FOLDER / "generator.json").read_text())
    recipe, made = load_config(RECIPE), record["recipe"]
    assert made["vae"]["model"] == recipe.vae.model
    assert made["transformer"]["model"] == recipe.transformer.model
    assert (made["vae"]["steps"], made["transformer"]["steps"]) == (
        recipe.vae.steps,
        recipe.transformer.steps,
    )
    assert all(p.dtype == torch.float32 for model in shipped for p in model.parameters())


def test_stride_in_the_config_is_the_models(shipped, stills):
    vae, _ = shipped
    latents = encode(vae, stills[:2])
    stride = vae.config.scale_factor_spatial
    assert latents.shape == (2, vae.config.z_dim, 1, 64 // stride, 64 // stride)
    clip = stills[:1].expand(-1, -1, 5, -1, -1)
    assert encode(vae, clip).shape[2] == 1 + 4 // vae.config.scale_factor_temporal


def test_latents_are_normalised_and_show_the_room(shipped, stills):
    vae, _ = shipped
    latents = encode(vae, stills)
    # Clips count for half of the statistics, and their later latents vary more than a single frame's.
    assert abs(float(latents.mean())) < 0.25 and 0.6 < float(latents.std()) < 1.4
    grey = stills.mean((2, 3, 4), keepdim=True).expand_as(stills)
    assert (psnr(decode(vae, latents), stills) - psnr(grey, stills)).mean() > 4


def test_first_latent_of_a_clip_is_that_of_its_first_frame(shipped, held_out, stills):
    vae, _ = shipped
    clip = encode(vae, held_out.videos([0]))
    torch.testing.assert_close(clip[:, :, :1], encode(vae, stills[:1]), atol=1e-4, rtol=1e-4)


def test_the_denoiser_has_learned_rooms(shipped, stills):
    vae, transformer = shipped
    clean, config = encode(vae, stills), load_config(RECIPE)
    trained = denoiser(transformer, config.text_tokens)
    untrained = denoiser(build_transformer(config).eval(), config.text_tokens)
    for level in (0.3, 0.7):
        errors = {
            name: float(flow_error(model, clean, level, seed=1).mean())
            for name, model in (("trained", trained), ("untrained", untrained), ("zero", zero))
        }
        assert errors["trained"] < 0.7 * errors["untrained"], (level, errors)
        assert errors["trained"] < 0.7 * errors["zero"], (level, errors)


def test_gaussian_denoiser_is_the_known_answer_for_white_latents():
    draws = torch.randn(4000, 2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    noisy = torch.randn(5, 2, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    t = 0.3  # E[eps - z_0 | z_t] of independent standard normals
    expected = (t - (1 - t)) / ((1 - t) ** 2 + t**2) * noisy
    made = GaussianDenoiser(draws).velocity(noisy, t)
    torch.testing.assert_close(made, expected, atol=0.2, rtol=0)


def test_clips_move_slowly_and_start_on_the_path():
    config = ClipsConfig(image_size=32, clips_per_room=2)
    frames = torch.from_numpy(render_clips(3, config)).float()
    near = (frames[:, 1:] - frames[:, :-1]).abs().mean()
    far = (frames[:, -1] - frames[:, 0]).abs().mean()
    assert 0 < near < far
    again = render_clips(3, config)
    assert (frames.numpy() == again).all()


def test_a_resumed_run_ends_with_identical_weights(tmp_path):
    config = load_config(write_recipe(tmp_path))
    assert make(config, tmp_path / "whole") is not None
    assert make(config, tmp_path / "parts", stop_after=2) is None  # within the autoencoder
    assert make(config, tmp_path / "parts") is not None
    for name in ("vae", "transformer"):
        whole, parts = (
            load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "parts")
        )
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
        lines = (tmp_path / "parts" / f"{name}.log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_checkpoint_of_other_settings_is_refused(tmp_path, capsys):
    config = load_config(write_recipe(tmp_path))
    make(config, tmp_path / "work", stop_after=1)
    other = write_recipe(tmp_path, seed=1)
    assert main(["--recipe", str(other), "--work", str(tmp_path / "work"), "--out", "unused"]) == 2
    assert "other settings" in one_line(capsys)


def test_written_folder_loads_as_it_was(tmp_path):
    config = load_config(write_recipe(tmp_path))
    vae, transformer, _ = make(config, tmp_path / "work")
    package.write(tmp_path / "out", vae, transformer)
    again = WanTransformer3DModel.from_pretrained(tmp_path / "out" / "transformer")
    for name, value in transformer.state_dict().items():
        assert torch.equal(again.state_dict()[name].float(), value), name
    loaded = AutoencoderKLWan.from_pretrained(tmp_path / "out" / "vae", torch_dtype=torch.float32)
    assert list(loaded.config.latents_std) == list(vae.config.latents_std)


def one_line(capsys) -> str:
    error = capsys.readouterr().err.strip().splitlines()
    return [line for line in error if line.startswith("error:")].pop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepps: 3", "unknown setting stepps"),
        ("vae: {steps: many}", "vae.steps='many': expected int"),
        ("clips: {frames: 4}", "clips.frames=4: must be odd"),
        ("transformer: 3", "transformer.: expected settings"),
        ("vae: {model: {z_dims: 4}}", "vae.model"),
    ],
)
def test_bad_settings_are_one_line(text, said, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    clips = {"image_size": 16, "train_rooms": 1, "clips_per_room": 1, "cache_dir": str(tmp_path)}
    path.write_text(yaml.safe_dump({"clips": clips, **yaml.safe_load(text)}))
    assert main(["--recipe", str(path), "--work", str(tmp_path / "w"), "--out", "unused"]) == 2
    assert said in one_line(capsys)


def test_missing_recipe_and_help(tmp_path, capsys):
    with pytest.raises(GeneratorError, match="no such recipe"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0 and "--recipe" in capsys.readouterr().out


def test_the_committed_recipe_binds():
    assert isinstance(load_config(RECIPE), GeneratorConfig)
