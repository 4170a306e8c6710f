"""What a pass over a decoder needs in place: taps, edits, and another path for reserved tokens.

Hooks live for one pass only and store or replace the raw tensor, nothing derived from it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from spatialprior.backbones.hooks import edit_tokens, store_input, store_output
from spatialprior.backbones.reserved import attention_mask, placed, reserved_inputs
from spatialprior.backbones.routing import Router, Rows
from spatialprior.core.backbone import Backbone, Edit, Twin
from spatialprior.core.batch import ClipBatch
from spatialprior.core.reserve import ReservedTokens
from spatialprior.core.sites import (
    FINAL_HIDDEN,
    RESERVED_TOKENS,
    VISUAL_TOKENS,
    Site,
    Taps,
    parse_residual,
)


class HookedBackbone(Backbone):
    """A backbone around a decoder that takes ``inputs_embeds`` by keyword and hands others on to its layers."""

    hf: Any  # a PreTrainedModel; transformers' own types change with every release
    _router: Router | None

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

    @property
    def num_layers(self) -> int:
        return len(self.decoder_layers)

    def visual_mask(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """``B S`` bool, where visual tokens sit."""
        ids, config = inputs["input_ids"], self.hf.config
        video = getattr(config, "video_token_id", config.image_token_id)  # not every family has one
        return (ids == config.image_token_id) | (ids == video)

    @abstractmethod
    def stock_positions(self, batch: ClipBatch) -> Tensor:
        """:meth:`position_ids` with reserved tokens counted like words."""

    def position_ids(self, batch: ClipBatch) -> Tensor:
        """Rotary positions of every token, in the family's own shape (last two dimensions ``B S``).

        Questions that share a prefix (``batch.branches``) each go on from its end.
        """
        positions = self.stock_positions(batch)
        return positions if batch.reserved is None else placed(positions, batch.reserved)[0]

    @property
    def edit_sites(self) -> tuple[Site, ...]:
        return (VISUAL_TOKENS, RESERVED_TOKENS)

    # --- routing --------------------------------------------------------------------------

    def token_parts(self, layer: int) -> dict[str, nn.Module]:
        block = self.decoder_layers[layer]
        attention = block.get_submodule("self_attn")
        norms = ("input_layernorm", "post_attention_layernorm", "mlp")
        parts = {name: block.get_submodule(name) for name in norms}
        inside = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
        return parts | {
            name: attention.get_submodule(name) for name in inside if hasattr(attention, name)
        }

    def final_norm(self) -> nn.Module:
        return self.decoder.get_submodule("norm")

    @property
    def num_heads(self) -> tuple[int, int]:
        config = self.hf.config.get_text_config()
        return int(config.num_attention_heads), int(config.num_key_value_heads)

    def route(self, layers: Sequence[Twin], final_norm: Twin) -> None:
        if self._router is not None:
            raise ValueError(
                "reserved tokens already have a path: one prior a model may route them"
            )
        parts = [self.token_parts(layer) for layer in range(self.num_layers)]
        norm = self.final_norm(), final_norm
        self._router = Router(list(self.decoder_layers), parts, layers, norm)

    def unroute(self) -> None:
        if self._router is not None:
            self._router.remove()
        self._router = None

    @contextmanager
    def bare(self) -> Iterator[None]:
        router = self._router
        self.unroute()
        try:
            with super().bare():
                yield
        finally:
            self.unroute()
            if router is not None:
                router.install()
            self._router = router

    # --- edits --------------------------------------------------------------------------

    def standing_edits(self, batch: ClipBatch) -> Mapping[Site, Sequence[Edit]]:
        """What :attr:`editor` does to a batch."""
        return self.editor(batch) if self.editor else {}

    @contextmanager
    def edited(self, batch: ClipBatch) -> Iterator[None]:
        """The standing edits in place around direct calls of ``hf`` on ``batch``."""
        with self._hooks(batch, (), self.standing_edits(batch), {}):
            yield

    # --- hooks ----------------------------------------------------------------------------

    @contextmanager
    def _hooks(
        self,
        batch: ClipBatch,
        tap_sites: Iterable[Site],
        edits: Mapping[Site, Sequence[Edit]],
        taps: Taps,
    ) -> Iterator[None]:
        handles: list[Any] = []
        try:
            for site in tap_sites:
                if site == FINAL_HIDDEN:
                    continue
                side, index = parse_residual(site, self.num_layers)
                layer = self.decoder_layers[index]
                if side == "in":
                    hook = store_input(taps, site)
                    handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    handles.append(layer.register_forward_hook(store_output(taps, site)))
            self.check_edits(edits)
            hooks = self._edit_hooks(batch, edits)
            if batch.reserved is not None:
                hooks.append(self._reserved_hook(batch, batch.reserved))
            for hook in hooks:
                handles.append(self.decoder.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            if self._router is not None:
                self._router.final.rows = None
            for handle in handles:
                handle.remove()

    def _edit_hooks(self, batch: ClipBatch, edits: Mapping[Site, Sequence[Edit]]) -> list[Any]:
        """Pre-hooks of the decoder (with keyword arguments) that make the edits."""
        masks = {VISUAL_TOKENS: self.visual_mask(batch.inputs)}
        if batch.reserved is not None:
            masks[RESERVED_TOKENS] = batch.reserved.patches
        return [edit_tokens(mask, edits[site]) for site, mask in masks.items() if edits.get(site)]

    def _reserved_hook(self, batch: ClipBatch, reserved: ReservedTokens) -> Any:
        """Pre-hook of the decoder: mask, positions and path of the reserved tokens."""
        self._check_mask("tokens reserved for a prior")
        mask = attention_mask(batch, self.hf.dtype, training=self.training)
        positions, shift = placed(self.stock_positions(batch), reserved)
        rows = Rows.of(reserved.patches)
        return reserved_inputs(mask, positions, shift, rows, self._router)

    def _check_mask(self, what: str) -> None:
        attention = str(self.hf.config._attn_implementation)
        if attention not in ("sdpa", "eager"):
            raise ValueError(
                f"{what} need a mask of their own, which attention={attention} does not take: "
                "set backbone.attention=sdpa"
            )
