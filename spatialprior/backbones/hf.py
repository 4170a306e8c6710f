"""What all Hugging Face backbones share: taps and edits through hooks, packed questions, generation, saving.

A subclass names the parts of its family (decoder layers, attention, rotary embedding) and its encoder.
Hooks live for one forward pass only and store the raw tensor, nothing derived from it: where a layer's
hooks run relative to its checkpointed region differs between transformers releases, and the raw
tensor is right in both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from spatialprior.backbones.lora import merged_state_dict
from spatialprior.core.backbone import Backbone, BackboneOutput, Checkpointing, Edit
from spatialprior.core.batch import ClipBatch
from spatialprior.core.sites import VISUAL_TOKENS, Site, Taps, parse_residual


class HFBackbone(Backbone):
    """Shared adapter. ``hf`` is the stock model, ``processor`` the stock processor."""

    hf: Any  # a PreTrainedModel; transformers' own types change with every release

    def __init__(self, hf: PreTrainedModel, processor: ProcessorMixin) -> None:
        super().__init__()
        self.hf = hf
        self.processor = processor

    # --- parts, named by the family -------------------------------------------------------

    @property
    @abstractmethod
    def decoder(self) -> nn.Module:
        """The text model: takes ``inputs_embeds`` by keyword and owns the decoder layers."""

    @property
    def decoder_layers(self) -> nn.ModuleList:
        layers = self.decoder.get_submodule("layers")
        assert isinstance(layers, nn.ModuleList)
        return layers

    def attention_modules(self) -> list[nn.Module]:
        """Self-attention of every decoder layer, in order."""
        return [layer.get_submodule("self_attn") for layer in self.decoder_layers]

    @abstractmethod
    def visual_mask(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``B S`` bool, where visual tokens sit."""

    @abstractmethod
    def position_ids(self, batch: ClipBatch) -> Tensor:
        """Rotary positions of every token, in the family's own shape (last two dimensions ``B S``)."""

    @abstractmethod
    def rotary(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables applied to queries and keys: two ``B S head_dim`` tensors."""

    # --- facts ----------------------------------------------------------------------------

    @property
    def num_layers(self) -> int:
        return len(self.decoder_layers)

    @property
    def hidden_size(self) -> int:
        return int(self.hf.config.get_text_config().hidden_size)

    def query_weight(self, layer: int) -> Tensor:
        return _base_weight(self.attention_modules()[layer].get_submodule("q_proj"))

    def input_norm_weight(self, layer: int) -> Tensor:
        return _base_weight(self.decoder_layers[layer].get_submodule("input_layernorm"))

    # --- passes ---------------------------------------------------------------------------

    def forward(
        self,
        batch: ClipBatch,
        *,
        tap_sites: Iterable[Site] = (),
        edits: Mapping[Site, Sequence[Edit]] | None = None,
    ) -> BackboneOutput:
        inputs = dict(batch.inputs)
        if batch.branches is not None:
            if "flash" in str(self.hf.config._attn_implementation):
                raise ValueError(
                    "several questions behind one visual prefix need a mask that flash attention does not "
                    "take: set backbone.attention=sdpa, or one question a clip"
                )
            inputs["attention_mask"] = branch_mask(batch.branches, self.hf.dtype)
            inputs["position_ids"] = self.position_ids(batch)
        taps: Taps = {}
        with self._hooks(inputs, tap_sites, edits or {}, taps):
            hidden = self.hf.base_model(**inputs, use_cache=False).last_hidden_state
        return BackboneOutput(hidden=hidden, taps=taps)

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.hf.get_output_embeddings()(hidden)
        return logits

    @torch.no_grad()
    def generate(self, batch: ClipBatch, max_new_tokens: int) -> Tensor:
        prompt_length = batch.inputs["input_ids"].shape[1]
        # Published generation configs may ask for sampling or a repetition penalty: greedy means neither.
        greedy = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
        tokens: Tensor = self.hf.generate(
            **batch.inputs, **greedy, max_new_tokens=max_new_tokens, use_cache=True
        )
        return tokens[:, prompt_length:]

    # --- how layers run -------------------------------------------------------------------

    def blocks(self) -> list[nn.Module]:
        names = set(self.hf._no_split_modules or ())
        found = [module for module in self.hf.modules() if type(module).__name__ in names]
        missing = {type(layer).__name__ for layer in self.decoder_layers} - names
        if missing:  # a root-only unit would gather the whole model at once, silently
            raise RuntimeError(f"{type(self.hf).__name__}._no_split_modules lacks {missing}")
        return found

    def set_lockstep(self, on: bool) -> None:
        self._lockstep = on

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

    # --- hooks ----------------------------------------------------------------------------

    @contextmanager
    def _hooks(
        self,
        inputs: Mapping[str, Tensor],
        tap_sites: Iterable[Site],
        edits: Mapping[Site, Sequence[Edit]],
        taps: Taps,
    ) -> Iterator[None]:
        handles: list[Any] = []
        try:
            for site in tap_sites:
                side, index = parse_residual(site, self.num_layers)
                layer = self.decoder_layers[index]
                if side == "in":
                    hook = _store_input(taps, site)
                    handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    handles.append(layer.register_forward_hook(_store_output(taps, site)))
            if unknown := set(edits) - {VISUAL_TOKENS}:
                raise ValueError(
                    f"cannot edit {sorted(unknown)}; the edit site is {VISUAL_TOKENS!r}"
                )
            if chain := edits.get(VISUAL_TOKENS):
                mask = self.visual_mask(inputs)
                handles.append(
                    self.decoder.register_forward_pre_hook(
                        _edit_visual(mask, chain), with_kwargs=True
                    )
                )
            yield
        finally:
            for handle in handles:
                handle.remove()

    # --- saving ---------------------------------------------------------------------------

    def stock_state_dict(self) -> dict[str, Tensor]:
        """Weights under the stock model's own keys, adapters folded in; the model itself is left as it is."""
        return merged_state_dict(self.hf)

    def save(self, folder: Path) -> None:
        """Write model and processor as a plain Hugging Face folder (safetensors)."""
        with torch.device("meta"):
            stock = type(self.hf)(self.hf.config)
        stock.load_state_dict(self.stock_state_dict(), strict=True, assign=True)
        stock.tie_weights()
        stock.generation_config = self.hf.generation_config
        stock.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def branch_mask(branches: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask of packed questions, ``B 1 S S``: 0 where seen, the lowest number where not.

    A token sees earlier prefix tokens and earlier tokens of its own branch. Padding sees itself only,
    so that no row of the softmax is empty.
    """
    length = branches.shape[1]
    query, key = branches.unsqueeze(2), branches.unsqueeze(1)
    causal = torch.ones(length, length, dtype=torch.bool, device=branches.device).tril()
    seen = causal & (key != -1) & ((key == 0) | (key == query))
    seen |= torch.eye(length, dtype=torch.bool, device=branches.device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=branches.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)


def _base_weight(module: nn.Module) -> Tensor:
    """Weight of a layer, looking through a LoRA wrapper."""
    weight = getattr(module, "base_layer", module).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _store_input(taps: Taps, site: Site) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        taps[site] = args[0] if args else kwargs["hidden_states"]

    return hook


def _store_output(taps: Taps, site: Site) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        taps[site] = output[0] if isinstance(output, tuple) else output

    return hook


def _edit_visual(mask: Tensor, chain: Sequence[Edit]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds = kwargs["inputs_embeds"]
        tokens = embeds[mask]
        for edit in chain:
            tokens = edit(tokens)
        expanded = mask.unsqueeze(-1).expand_as(embeds)
        return args, {
            **kwargs,
            "inputs_embeds": embeds.masked_scatter(expanded, tokens.to(embeds.dtype)),
        }

    return hook
