"""Wan text-to-video: the residual stream of a denoiser's block, each frame a video of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from spatialprior.features.diffusion import DiffusionEncoder, PromptConfig, to_signed
from spatialprior.features.early_exit import stop_at
from spatialprior.features.encoder import EncoderConfig, EncoderError, noise_like


@dataclass
class WanT2VConfig(PromptConfig):
    """What a recipe may set; the defaults are VEGA-3D's (``vega3d.md`` section 2), at 480p.

    Attributes:
        layer: 0-based block whose output, the residual stream without a norm, is the feature.
        attention: Kernel of the denoiser, by diffusers' name: ``native`` is torch's own.
        noise_level: t of ``(1 - t) z + t eps``, in [0, 1]; the model is told ``1000 t``. 0 is clean.
    """

    path: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    size: tuple[int, int] = (480, 832)
    layer: int = 20
    noise_level: float = 0.3
    attention: Literal["native", "flash", "xformers"] = "native"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noise_level <= 1:
            raise ValueError(f"noise_level={self.noise_level}: must be in [0, 1]")


class WanT2V(DiffusionEncoder):
    """Wan2.1-T2V (``vega3d.md`` section 2): VAE mode, normalised by channel, mixed with seeded noise, through
    the denoiser up to ``layer`` with the empty prompt and no guidance.

    The prompt is UMT5's embedding of "", zero-padded to 512 tokens as in the stock pipeline; zeros
    ``[1, 8, text_dim]`` where the folder has no text encoder (``nano`` was trained with these) or the weights
    are random.
    """

    Config: ClassVar[type[EncoderConfig]] = WanT2VConfig
    config: WanT2VConfig
    components: ClassVar[dict[str, Any]] = {
        "transformer": WanTransformer3DModel,
        "vae": AutoencoderKLWan,
    }
    nano: ClassVar[str | None] = "wan_t2v"
    example: ClassVar[str] = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    text: ClassVar[tuple[Any, int, bool] | None] = (UMT5EncoderModel, 512, True)
    prompt_width: ClassVar[tuple[str, str]] = ("transformer", "text_dim")

    def validate(self) -> None:
        super().validate()
        depth = int(self.part("transformer")["num_layers"])
        if not 0 <= self.config.layer < depth:
            raise EncoderError(
                f"layer={self.config.layer}: {self.config.path} has blocks 0 to {depth - 1}"
            )

    @property
    def channels(self) -> int:
        part = self.part("transformer")
        return int(part["num_attention_heads"] * part["attention_head_dim"])

    @property
    def vae_stride(self) -> int:
        """Pixels of a latent's side."""
        vae = self.part("vae")
        return int(2 ** (len(vae["dim_mult"]) - 1) * (vae["patch_size"] or 1))

    @property
    def multiple(self) -> int:
        return self.vae_stride * int(self.part("transformer")["patch_size"][1])

    def load(self) -> nn.Module:
        model: Any = super().load()
        if self.config.attention != "native":
            try:
                model.transformer.set_attention_backend(self.config.attention)
            except (ImportError, RuntimeError, ValueError) as error:
                why = " ".join(str(error).split())[:160]
                raise EncoderError(
                    f"attention={self.config.attention}: {why}; use native"
                ) from error
        assert isinstance(model, nn.Module)
        return model

    def trim(self, models: dict[str, Any]) -> None:
        models["transformer"].blocks = models["transformer"].blocks[: self.config.layer + 1]

    def encode_pixels(self, module: nn.Module, pixels: Tensor, seeds: list[int]) -> Tensor:
        model: Any = module
        clean = self.latents(model.vae, to_signed(pixels))
        t = self.config.noise_level
        noisy = (1 - t) * clean + t * noise_like(clean, seeds) if t else clean
        transformer, after = model.transformer, self.config.layer + 1
        blocks = transformer.blocks
        # The stream after a block is the next one's input; this counts what is added in between (VACE's hints).
        follower = blocks[after] if after < len(blocks) else transformer.norm_out
        with stop_at(follower, "input", self.config.early_exit) as found:
            transformer(
                hidden_states=noisy.to(self.dtype),
                timestep=torch.full((len(pixels),), 1000 * t, device=pixels.device),
                encoder_hidden_states=model.prompt.expand(len(pixels), -1, -1),
                return_dict=False,
                **self.conditions(model, pixels, clean),
            )
        rows, cols = (int(side) // self.multiple for side in pixels.shape[-2:])
        tokens = found.value.to(self.dtype)
        return tokens.transpose(1, 2).reshape(len(pixels), -1, rows, cols)

    def conditions(self, model: Any, pixels: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Further inputs of the transformer, from pixels in [0, 1] and their clean latents."""
        return {}

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        """``N C 1 h w`` float32, normalised by channel, of ``N 3 H W`` in [-1, 1]: one-frame videos."""
        mode: Tensor = vae.encode(pixels.unsqueeze(2).to(self.dtype)).latent_dist.mode()
        mode = mode.float()
        mean, std = (
            mode.new_tensor(values).view(1, -1, 1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return (mode - mean) / std
