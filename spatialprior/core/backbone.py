"""The contract of a backbone: an unmodified Hugging Face VLM, read and edited at named sites only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.reserve import Reserve
from spatialprior.core.sites import Site, Taps

Edit = Callable[[Tensor], Tensor]

Checkpointing = Literal["none", "reentrant", "nonreentrant"]
"""How layers are recomputed in the backward pass (the two kinds of ``torch.utils.checkpoint``)."""


Frames = Literal["images", "video"]
"""How the views of a clip go in: each as an image of its own, or all as the frames of one video."""


class Twin(Protocol):
    """Stands in for the parts of one decoder layer, for the reserved tokens."""

    def __call__(self, part: str, tokens: Tensor, stock: nn.Module) -> Tensor:
        """What ``part`` makes of ``tokens`` (``T ...``, T may be 0), in the shape that ``stock`` would give."""


class Encoder(Protocol):
    """Turns clips into a :class:`ClipBatch`. Holds no weights, so loader workers can own a copy."""

    def __call__(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        """Encode clips with their questions and answers, for training."""

    def prompts(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        """Encode clips that carry exactly one question each, without the answer, padded on the left.

        Of a dialogue the last question is asked, behind the others and their answers.
        """

    def length(self, clip: MultiViewClip) -> int:
        """Tokens of a clip in a batch to train on, without looking at its pixels."""

    def decode(self, tokens: Tensor) -> list[str]:
        """Token ids ``B T`` to replies, special tokens dropped."""


@dataclass(frozen=True)
class BackboneOutput:
    """One forward pass.

    Attributes:
        hidden: ``B S D``, after the decoder's final norm.
        taps: The tensors read at the requested sites.
    """

    hidden: Tensor
    taps: Taps


class Backbone(nn.Module):
    """A Hugging Face model with names for its parts. Nothing attached: logits bitwise equal to stock.

    Attributes:
        hf: The stock model, its keys unchanged.
        editor: Makes the edits of a pass that is given none: what the priors of an export that keeps them do at
            inference. ``None``: such a pass is stock.
        echo_views: Encoders give every view a second time (``Needs.echo``).
        reserve: What encoders put in front of the views (``Needs.reserve``).
    """

    hf: nn.Module
    editor: Callable[[ClipBatch], Mapping[Site, Sequence[Edit]]] | None = None
    echo_views: bool = False
    reserve: Reserve | None = None

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise a one-line error for what is wrong with ``config``, before any weight loads.

        By default nothing is.
        """

    @property
    def frames(self) -> Frames:
        """How the encoder gives the views of a clip to the model, as it is set."""
        return "images"

    @property
    @abstractmethod
    def num_layers(self) -> int: ...

    @property
    @abstractmethod
    def hidden_size(self) -> int: ...

    @property
    @abstractmethod
    def vision(self) -> tuple[nn.Module, ...]:
        """The vision tower and what projects its output to the decoder's width."""

    @abstractmethod
    def query_weight(self, layer: int) -> Tensor:
        """``(heads * head_dim) D`` query projection of a decoder layer, detached."""

    @abstractmethod
    def input_norm_weight(self, layer: int) -> Tensor:
        """``D`` gain of the RMS norm in front of that layer's attention, detached."""

    @abstractmethod
    def attention_modules(self) -> list[nn.Module]:
        """Self-attention of every decoder layer, in order; each calls transformers' attention interface."""

    @abstractmethod
    def rotary(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Cosine and sine that rotate the decoder's queries and keys: two ``B S head_dim`` tensors."""

    @abstractmethod
    def token_parts(self, layer: int) -> dict[str, nn.Module]:
        """What a decoder layer does to each token by itself, by name: norms, projections, MLP.

        ``input_layernorm``, ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``, ``post_attention_layernorm``,
        ``mlp``, and ``q_norm`` and ``k_norm`` where the family has them.
        """

    @abstractmethod
    def final_norm(self) -> nn.Module:
        """The norm behind the last decoder layer."""

    @property
    @abstractmethod
    def num_heads(self) -> tuple[int, int]:
        """Query heads and key-value heads of a decoder layer."""

    @abstractmethod
    def route(self, layers: Sequence[Twin], final_norm: Twin) -> None:
        """Send the reserved tokens of every pass through ``layers`` in place of the stock parts.

        Attention itself stays the stock one, over all tokens. Without reserved tokens nothing changes.

        Args:
            layers: One for each decoder layer.
            final_norm: In place of the norm behind them (its part is called ``norm``).

        Raises:
            ValueError: Tokens are routed already.
        """

    @abstractmethod
    def unroute(self) -> None:
        """Undo :meth:`route`: the stock modules as they were."""

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Inside, no prior is attached and others may be; afterwards all is as it was."""
        before = self.editor, self.echo_views, self.reserve
        self.editor, self.echo_views, self.reserve = None, False, None
        try:
            yield
        finally:
            self.editor, self.echo_views, self.reserve = before

    @property
    @abstractmethod
    def edit_sites(self) -> tuple[Site, ...]:
        """Where this family's visual features enter the decoder, and can be changed."""

    def check_edits(self, sites: Iterable[Site]) -> None:
        """Raise ``ValueError`` for an edit site that this family lacks, naming those it has."""
        for site in sorted(set(sites) - set(self.edit_sites)):
            raise ValueError(
                f"{type(self).__name__} has no edit site {site!r}; "
                f"choose from {', '.join(self.edit_sites)}"
            )

    @abstractmethod
    def encoder(self) -> Encoder: ...

    @abstractmethod
    def forward(
        self,
        batch: ClipBatch,
        *,
        tap_sites: Iterable[Site] = (),
        edits: Mapping[Site, Sequence[Edit]] | None = None,
    ) -> BackboneOutput:
        """One pass over the decoder, with ``edits`` in place; without any, with those of :attr:`editor`."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of final hidden states (``... D`` -> ``... vocab``)."""

    @abstractmethod
    def generate(self, batch: ClipBatch, max_new_tokens: int) -> Tensor:
        """Greedy replies to ``encoder().prompts(...)``: ``B T`` new token ids."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The repeated modules (decoder layers, vision blocks), the units in which weights are sharded."""

    @abstractmethod
    def set_lockstep(self, on: bool) -> None:
        """Run the vision tower for batches without images too (see :meth:`SpatialModel.set_lockstep`)."""

    @abstractmethod
    def unmet(self) -> list[nn.Parameter]:
        """Weights that train and that no image or video meets, such as layers above the features used."""

    @abstractmethod
    def set_gradient_checkpointing(self, kind: Checkpointing) -> None:
        """Recompute layers in the backward pass, or stop doing so. Takes effect in training mode."""

    @abstractmethod
    def compile_layers(self, backend: str = "inductor") -> None:
        """``torch.compile`` every decoder layer, taps staying outside the compiled regions."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder (model, processor), adapters merged."""
