"""What all Hugging Face backbones share: loading, passes, packed questions, generation, saving.

A subclass names the stock class and the parts of its family (decoder, vision tower, rotary embedding) and
its encoder.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from spatialprior.backbones import lora
from spatialprior.backbones.branches import branch_mask, check_length
from spatialprior.backbones.chat_encoder import ChatEncoder
from spatialprior.backbones.hooked import HookedBackbone
from spatialprior.backbones.loading import (
    check_attention,
    load_weights,
    read_config,
)
from spatialprior.backbones.lockstep import BlankVisuals
from spatialprior.backbones.settings import HFConfig
from spatialprior.core.backbone import (
    BackboneOutput,
    Checkpointing,
    Edit,
    Frames,
)
from spatialprior.core.batch import ClipBatch
from spatialprior.core.sites import (
    FINAL_HIDDEN,
    Site,
    Taps,
)


class HFBackbone(HookedBackbone):
    """Shared adapter. ``hf`` is the stock model, ``processor`` the stock processor.

    Attributes:
        model_class: The stock class.
        encoder_class: The family's encoder.
        adapted: Full names of the linear maps that carry LoRA.
    """

    Config: ClassVar[type[HFConfig]] = HFConfig
    model_class: ClassVar[Any]
    encoder_class: ClassVar[type[ChatEncoder]]

    def __init__(
        self,
        hf: PreTrainedModel,
        processor: ProcessorMixin | None,
        settings: HFConfig | None = None,
    ) -> None:
        super().__init__()
        self.hf = hf
        self._processor = processor
        self.adapted: list[str] = []
        self._blank: BlankVisuals | None = None
        self._router = None
        self.settings = self.Config() if settings is None else settings

    # --- making one -----------------------------------------------------------------------

    @classmethod
    def load(cls, config: HFConfig) -> Self:
        """Load weights and processor (offline when ``path`` is ``nano`` or a folder)."""
        folder = cls._folder(config)
        hf = load_weights(cls.model_class, folder, config)
        processor = AutoProcessor.from_pretrained(folder, revision=config.revision)
        if config.max_pixels is not None:
            cls.limit_pixels(processor, config.max_pixels)
        return cls(hf, processor, config)._prepared()

    @classmethod
    def check(cls, config: HFConfig) -> None:
        """Raise :class:`BackboneError` for what is wrong with ``config``, without loading a weight."""
        read_config(cls.model_class, cls._folder(config), config.revision)
        check_attention(config.attention)

    @classmethod
    def _folder(cls, config: HFConfig) -> str:
        return str(cls.nano_folder()) if config.path == "nano" else config.path

    @classmethod
    def on_meta(cls, hf_config: Any, config: HFConfig) -> Self:
        """The stock class on the meta device: shapes without weights, for planning.

        What would train and which adapters there would be are as :meth:`load` sets them. It has no processor,
        so ``encoder()`` is refused.

        Args:
            hf_config: Configuration of the stock class, such as ``AutoConfig.from_pretrained`` gives; not
                modified.
            config: Settings; ``path``, ``revision`` and ``max_pixels`` play no part.
        """
        hf_config = copy.deepcopy(hf_config)
        hf_config._attn_implementation = config.attention
        with torch.device("meta"):
            hf = cls.model_class(hf_config).to(getattr(torch, config.dtype))
            return cls(hf, None, config)._prepared()

    @classmethod
    def nano_folder(cls) -> Path:
        """Where the family's nano twin lies: what ``path=nano`` loads."""
        raise ValueError(
            f"{cls.__name__} has no nano twin; set backbone.path to a folder or hub id"
        )

    @classmethod
    def limit_pixels(cls, processor: Any, max_pixels: int) -> None:
        """Make ``processor`` scale frames of more than ``max_pixels`` down."""
        raise ValueError(
            f"max_pixels={max_pixels} has no effect on {cls.__name__}, whose processor fixes the size of a "
            "frame; leave backbone.max_pixels unset"
        )

    def _prepared(self) -> Self:
        """Set what trains, and put the adapters in."""
        config = self.settings
        if config.freeze_vision:
            for module in self.vision:
                module.requires_grad_(False)
        if config.lora is not None:
            self.adapted = lora.inject(self.hf, self.decoder_layers, config.lora)
        return self

    @property
    def processor(self) -> Any:
        """The stock processor.

        Raises:
            ValueError: There is none, because the backbone was made by :meth:`on_meta`.
        """
        if self._processor is None:
            raise ValueError(
                f"this {type(self).__name__} has no weights and no processor (it was made to plan with); "
                "use load()"
            )
        return self._processor

    # --- parts, named by the family -------------------------------------------------------

    @property
    @abstractmethod
    def vision_blocks(self) -> nn.ModuleList:
        """Blocks of the vision tower."""

    @property
    def frames(self) -> Frames:
        frames: Frames = getattr(self.settings, "frames", "images")  # not every family has a choice
        return frames

    def encoder(self) -> ChatEncoder:
        return self.encoder_class(
            self.processor,
            self.frames,
            self.settings.max_pixels,
            self.echo_views,
            self.reserve,
        )

    @abstractmethod
    def rotary(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables applied to queries and keys: two ``B S head_dim`` tensors."""

    # --- facts ----------------------------------------------------------------------------

    @property
    def hidden_size(self) -> int:
        return int(self.hf.config.get_text_config().hidden_size)

    @property
    def context_length(self) -> int:
        """Tokens that the model was made for."""
        return int(self.hf.config.get_text_config().max_position_embeddings)

    def query_weight(self, layer: int) -> Tensor:
        return _base_weight(self.attention_modules()[layer].get_submodule("q_proj"))

    def input_norm_weight(self, layer: int) -> Tensor:
        return _base_weight(self.decoder_layers[layer].get_submodule("input_layernorm"))

    def lora_targets(self, roles: Iterable[str]) -> list[str]:
        """Full names of the decoder's linear maps that play ``roles`` (of ``attention`` and ``mlp``)."""
        return lora.target_names(self.hf, self.decoder_layers, roles)

    # --- passes ---------------------------------------------------------------------------

    def forward(
        self,
        batch: ClipBatch,
        *,
        tap_sites: Iterable[Site] = (),
        edits: Mapping[Site, Sequence[Edit]] | None = None,
    ) -> BackboneOutput:
        inputs = dict(batch.inputs)
        check_length(batch, self.context_length)
        if batch.branches is not None:
            self._check_mask("several questions behind one visual prefix (or one question a clip)")
            inputs["attention_mask"] = branch_mask(batch.branches, self.hf.dtype)
            inputs["position_ids"] = self.position_ids(batch)
        taps: Taps = {}
        edits = self.standing_edits(batch) if edits is None else edits
        tap_sites = list(tap_sites)
        with self._hooks(batch, tap_sites, edits, taps):
            # Where reserved tokens stand alone, no process looks at a view.
            blank = None if self.reserve is not None and self.reserve.alone else self._blank
            zero = blank.zero(self.hf.base_model, inputs) if blank else None
            hidden = self.hf.base_model(**inputs, use_cache=False).last_hidden_state
            if FINAL_HIDDEN in tap_sites:
                taps[FINAL_HIDDEN] = hidden
            if zero is not None:
                hidden = hidden + zero.to(hidden.dtype)
        return BackboneOutput(hidden=hidden, taps=taps)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.hf.get_output_embeddings()(hidden)
        return logits

    @torch.no_grad()
    def generate(self, batch: ClipBatch, max_new_tokens: int) -> Tensor:
        check_length(batch, self.context_length)
        prompt_length = batch.inputs["input_ids"].shape[1]
        # Published generation configs may ask for sampling or a repetition penalty: greedy means neither.
        greedy = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
        with self.edited(batch):
            tokens: Tensor = self.hf.generate(
                **batch.inputs, **greedy, max_new_tokens=max_new_tokens, use_cache=True
            )
        return tokens[:, prompt_length:]

    # --- how layers run -------------------------------------------------------------------

    def blocks(self) -> list[nn.Module]:
        return [*self.vision_blocks, *self.decoder_layers]

    def set_lockstep(self, on: bool) -> None:
        self._blank = BlankVisuals(self.encoder()) if on else None

    def unmet(self) -> list[nn.Parameter]:
        decoder = {id(p) for p in self.decoder.parameters()}
        decoder |= {id(p) for p in self.hf.get_output_embeddings().parameters()}
        visual = [p for p in self.hf.parameters() if p.requires_grad and id(p) not in decoder]
        if not visual:
            return []
        zero = (self._blank or BlankVisuals(self.encoder())).zero(
            self.hf.base_model, {"input_ids": torch.zeros(1, 1, device=visual[0].device)}
        )
        if zero is None:
            return visual
        met = torch.autograd.grad(zero, visual, allow_unused=True)
        return [p for p, gradient in zip(visual, met, strict=True) if gradient is None]

    def set_gradient_checkpointing(self, kind: Checkpointing) -> None:
        """Recompute layers in the backward pass, or stop doing so. Takes effect in training mode.

        Reentrant checkpointing returns no gradient unless an input asks for one, which frozen embeddings
        (LoRA) do not: then the embeddings' output is made to.
        """
        if kind not in get_args(Checkpointing):
            choices = ", ".join(get_args(Checkpointing))
            raise ValueError(f"gradient checkpointing {kind!r}: choose one of {choices}")
        self._release_inputs()
        # transformers 5.2x renames the pair; the old names warn, and go in release 6.
        new_name = hasattr(self.hf, "activation_checkpointing_enable")
        name = "activation_checkpointing" if new_name else "gradient_checkpointing"
        if kind == "none":
            getattr(self.hf, f"{name}_disable")()
        else:
            options = {f"{name}_kwargs": {"use_reentrant": kind == "reentrant"}}
            getattr(self.hf, f"{name}_enable")(**options)
            self._release_inputs()  # some releases put their hook there unasked
        if kind == "reentrant":
            self.hf.enable_input_require_grads()

    def _release_inputs(self) -> None:
        """Take back ``enable_input_require_grads``, of which transformers forgets all calls but the last."""
        if hasattr(self.hf, "_require_grads_hook"):
            self.hf.disable_input_require_grads()

    def compile_layers(self, backend: str = "inductor") -> None:
        """``torch.compile`` the ``forward`` of every decoder layer: hooks run around it, so taps stay exact."""
        for layer in self.decoder_layers:
            layer.forward = torch.compile(layer.forward, backend=backend)

    # --- saving ---------------------------------------------------------------------------

    def stock_state_dict(self) -> dict[str, Tensor]:
        """Weights under the stock model's own keys, adapters folded in; the model itself is left as it is."""
        return lora.merged_state_dict(self.hf)

    def save(self, folder: Path) -> None:
        """Write model and processor as a plain Hugging Face folder (safetensors)."""
        with torch.device("meta"):
            stock = type(self.hf)(self.hf.config)
        stock.load_state_dict(self.stock_state_dict(), strict=True, assign=True)
        stock.tie_weights()
        stock.generation_config = self.hf.generation_config
        stock.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _base_weight(module: nn.Module) -> Tensor:
    """Weight of a layer, looking through a LoRA wrapper."""
    weight = getattr(module, "base_layer", module).weight
    assert isinstance(weight, Tensor)
    return weight.detach()
