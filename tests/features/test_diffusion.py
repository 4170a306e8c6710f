"""Every encoder on diffusers classes against a plain run of the same stock classes with a plain hook."""

import importlib.util
import math

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from spatialprior.features.encoder import EncoderError, frame_seed, noise_like, weight_checksum
from spatialprior.registry import ENCODERS

OWN = {
    "wan_t2v": {"layer": 2, "size": (32, 48)},
    "wan_vace": {"layer": 2, "size": (32, 48)},
    "sd21": {"size": (32, 48)},
    "svd": {"size": (32, 48), "chunk": 2},
    "sd_vae": {"size": (32, 48)},
}
NAMES = list(OWN)
NOISY = {
    "wan_t2v": {"noise_level": 0.0},
    "wan_vace": {"noise_level": 0.0},
    "sd21": {"timestep": None},
}


def frames(count=3, seed=0):
    return torch.randint(
        0, 256, (count, 3, 32, 48), generator=torch.Generator().manual_seed(seed)
    ).to(torch.uint8)


@pytest.fixture
def make(diffusers_twin):
    def build(name, **settings):
        kind = ENCODERS.get(name)
        values = {"path": str(diffusers_twin(name)), **OWN[name], **settings}
        return kind(kind.Config(**values))

    return build


def open_with(kind, folder, name):
    return kind.from_pretrained(folder / name).eval()


def hooked(run, module, pick):
    """What ``pick(args, kwargs, output)`` finds at ``module`` during a full run."""
    found = []
    handle = module.register_forward_hook(
        lambda m, args, kwargs, output: found.append(pick(args, kwargs, output)), with_kwargs=True
    )
    with torch.no_grad():
        run()
    handle.remove()
    return found[0]


def wan_latents(vae, pixels):
    mode = vae.encode(pixels[:, :, None] * 2 - 1).latent_dist.mean
    mean, std = (
        torch.tensor(v)[None, :, None, None, None]
        for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (mode - mean) / std


def plain_wan_t2v(folder, pixels, seeds):
    vae, model = (
        open_with(AutoencoderKLWan, folder, "vae"),
        open_with(WanTransformer3DModel, folder, "transformer"),
    )
    z = wan_latents(vae, pixels)
    z = 0.7 * z + 0.3 * noise_like(z, seeds)
    text = torch.zeros(len(z), 8, 16)
    tokens = hooked(
        lambda: model(z, torch.full((len(z),), 300), text),
        model.blocks[2],
        lambda args, kwargs, output: output,
    )
    return tokens.transpose(1, 2).reshape(len(z), 24, 2, 3)


def plain_wan_vace(folder, pixels, seeds):
    vae, model = (
        open_with(AutoencoderKLWan, folder, "vae"),
        open_with(WanVACETransformer3DModel, folder, "transformer"),
    )
    pipeline = WanVACEPipeline(None, None, vae, None, model)
    # One frame at a time, as the stock pipeline does; its conditions are made by itself.
    maps = []
    for pixel, seed in zip(pixels, seeds, strict=True):
        video = pixel[None, :, None] * 2 - 1
        mask = torch.ones_like(video)
        control = pipeline.prepare_video_latents(video, mask, [[]], device="cpu")
        control = torch.cat([control, pipeline.prepare_masks(mask, [[]])], dim=1)
        z = wan_latents(vae, pixel[None])
        z = 0.7 * z + 0.3 * noise_like(z, [seed])
        tokens = hooked(
            lambda z=z, control=control: model(
                z, torch.tensor([300]), torch.zeros(1, 8, 16), control_hidden_states=control
            ),
            model.blocks[3],
            lambda args, kwargs, output: args[0],
        )
        maps.append(tokens.transpose(1, 2).reshape(1, 24, 2, 3))
    return torch.cat(maps)


def plain_sd21(folder, pixels, seeds):
    vae, unet = (
        open_with(AutoencoderKL, folder, "vae"),
        open_with(UNet2DConditionModel, folder, "unet"),
    )
    z = vae.encode(pixels * 2 - 1).latent_dist.mean * 0.5
    level = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").alphas_cumprod[250]
    z = level.sqrt() * z + (1 - level).sqrt() * noise_like(z, seeds)
    return hooked(
        lambda: unet(z, 250, torch.zeros(len(z), 8, 16)),
        unet.mid_block,
        lambda args, kwargs, output: args[0],
    )


def plain_svd(folder, pixels, seeds):
    vae = open_with(AutoencoderKLTemporalDecoder, folder, "vae")
    unet = open_with(UNetSpatioTemporalConditionModel, folder, "unet")
    clip = open_with(CLIPVisionModelWithProjection, folder, "image_encoder")
    euler = EulerDiscreteScheduler(prediction_type="v_prediction", timestep_type="continuous")
    euler.set_timesteps(1)
    # A level of our choice in the place of the schedule's, the rest is the scheduler's own arithmetic.
    euler.sigmas[0], euler.timesteps[0] = 0.7, 0.25 * math.log(0.7)
    maps = []
    for at in (0, 2):
        part = pixels[at : at + 2]
        clean = vae.encode(part * 2 - 1).latent_dist.mean
        noisy = clean * 0.5 + 0.7 * noise_like(clean, seeds[at : at + 2])
        euler._step_index = None
        noisy = euler.scale_model_input(noisy, euler.timesteps[0])
        first = F.interpolate(part[:1], (28, 28), mode="bicubic", antialias=True).clamp(0, 1)
        kept = {"do_resize": False, "do_center_crop": False, "do_rescale": False}
        first = CLIPImageProcessor()(first, **kept, return_tensors="pt").pixel_values
        embedding = clip(first).image_embeds[:, None]
        sample = torch.cat([noisy, clean], 1)[None]
        maps.append(
            hooked(
                lambda sample=sample, embedding=embedding: unet(
                    sample, euler.timesteps[0], embedding, torch.tensor([[6.0, 127.0, 0.02]])
                ),
                unet.mid_block,
                lambda args, kwargs, output: kwargs["hidden_states"],
            )
        )
    return torch.cat(maps)


def plain_sd_vae(folder, pixels, seeds):
    z = open_with(AutoencoderKL, folder, "vae").encode(pixels * 2 - 1).latent_dist.mean * 0.5
    return z.unflatten(-1, (-1, 2)).mean(-1).unflatten(-2, (-1, 2)).mean(-2)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_a_plain_run(name, make, diffusers_twin):
    images, encoder = frames(), make(name)
    found = encoder(images)
    with torch.no_grad():
        seeds = [frame_seed(image, 0) for image in images]
        wanted = globals()[f"plain_{name}"](diffusers_twin(name), images / 255, seeds)
    assert found.values.shape[:2] == (3, encoder.channels)
    assert found.grid == (32 // encoder.multiple, 48 // encoder.multiple)
    torch.testing.assert_close(found.values, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fit", ["aspect", "crop"])
def test_the_grid_is_known_beforehand(name, fit, make):
    encoder = make(name, fit=fit)
    for frame in ((32, 48), (70, 40)):
        found = encoder(torch.zeros(1, 3, *frame, dtype=torch.uint8))
        assert (found.grid, found.box) == (encoder.patch_grid(frame), encoder.patch_grid.box(frame))


@pytest.mark.parametrize("name", ["wan_t2v", "wan_vace", "sd21", "svd"])
def test_early_exit_changes_nothing_and_skips(name, make):
    short, full = make(name), make(name, early_exit=False)
    torch.testing.assert_close(short(frames()).values, full(frames()).values, atol=0, rtol=0)
    assert short.settings() == full.settings()

    def calls(encoder):
        seen = []
        denoiser = getattr(encoder.module, "transformer", None) or encoder.module.unet
        handles = [
            module.register_forward_hook(lambda m, args, output, key=key: seen.append(key))
            for key, module in denoiser.named_modules()
        ]
        encoder(frames(2))
        for handle in handles:
            handle.remove()
        return seen

    later = {
        "wan_t2v": {"blocks.3", "proj_out"},
        "wan_vace": {"vace_blocks.2", "blocks.3", "proj_out"},
        "sd21": {"mid_block", "up_blocks.0", "conv_out"},
        "svd": {"mid_block", "up_blocks.0", "conv_out"},
    }[name]
    assert later <= set(calls(full))
    assert not later & set(calls(short))


@pytest.mark.parametrize("name", ["wan_t2v", "wan_vace", "sd21"])
def test_noise_belongs_to_the_frame(name, make):
    images, encoder = frames(4), make(name)
    together = encoder(images).values
    alone = torch.cat([make(name, batch=1)(images[[i]]).values for i in (3, 1)])
    torch.testing.assert_close(together[[3, 1]], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together, make(name, seed=1)(images).values, atol=1e-3)


def test_video_noise_is_seeded_and_chunks_are_apart(make):
    images = frames(4)
    values = make("svd")(images).values
    torch.testing.assert_close(values[2:], make("svd")(images[2:]).values, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(values, make("svd", seed=1)(images).values, atol=1e-3)
    assert not torch.allclose(values, make("svd", chunk=4)(images).values, atol=1e-3)


@pytest.mark.parametrize("name", list(NOISY))
def test_without_noise_the_seed_is_nothing(name, make):
    clean = [make(name, seed=seed, **NOISY[name])(frames(2)).values for seed in (0, 1)]
    assert torch.equal(*clean)
    assert not torch.allclose(clean[0], make(name)(frames(2)).values, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_files_and_nothing_is_left_behind(name, make, diffusers_twin):
    encoder = make(name, **({"early_exit": False} if name != "sd_vae" else {}))
    before = encoder.checksum()
    encoder(frames(2))
    assert encoder.checksum() == before
    for part, kind in encoder.components.items():
        plain = open_with(kind, diffusers_twin(name), part)
        assert weight_checksum(getattr(encoder.module, part)) == weight_checksum(plain)
    stopped = make(name)
    stopped(frames(2))
    for module in (*stopped.module.modules(), *encoder.module.modules()):
        assert not (module._forward_hooks or module._forward_pre_hooks or module.training)
    assert not any(p.requires_grad for p in encoder.module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_random_weights(name, make):
    state = torch.get_rng_state()
    drawn, again, other = (make(name, weights="random", seed=seed) for seed in (3, 3, 4))
    sums = [encoder.checksum() for encoder in (drawn, again, other, make(name))]
    encoder = make(name, weights="random")
    encoder.load()  # not through the property, which guards the state itself
    make(name).load()
    assert torch.equal(torch.get_rng_state(), state)
    assert sums[0] == sums[1] and len(set(sums)) == 3
    assert drawn(frames(2)).values.isfinite().all()
    assert drawn.revision != make(name).revision


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_bfloat16(name, weights, make):
    encoder, exact = (make(name, dtype=dtype, weights=weights) for dtype in ("bfloat16", "float32"))
    values, wanted = encoder(frames(2)).values, exact(frames(2)).values
    assert values.dtype == torch.bfloat16
    assert F.cosine_similarity(values.float(), wanted, dim=1).mean() > 0.99


@pytest.mark.parametrize("fit", ["aspect", "crop"])
@pytest.mark.parametrize("name", NAMES)
def test_a_marker_changes_the_token_on_it(name, fit, make, sees_marker):
    sees_marker(make(name, size=(96, 128), fit=fit))


def test_a_kernel_that_is_not_installed_is_one_line(make):
    if importlib.util.find_spec("flash_attn"):
        pytest.skip("flash-attn is installed here")
    with pytest.raises(EncoderError, match=r"attention=flash: .*use native"):
        _ = make("wan_t2v", attention="flash").module
