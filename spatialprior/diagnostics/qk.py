"""Queries and keys of every decoder layer, seen through transformers' attention interface.

The function that a model's attention calls is looked up by name in ``ALL_ATTENTION_FUNCTIONS`` on
every forward. For the time of a probe that name leads to a function that shows (query, key) of the
decoder's own modules to a consumer and then calls the original with the same arguments. Masks are
chosen by the same name, so they and the output stay bitwise the same. No attention map is built.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Consume = Callable[[int, Tensor, Tensor], None]
"""``consume(layer, query, key)``: ``B heads S dim`` and ``B kv_heads S dim``, after RoPE."""


def _implementation(modules: Sequence[nn.Module]) -> str:
    names = {str(cast(Any, module).config._attn_implementation) for module in modules}
    if len(names) != 1:
        raise ValueError(
            f"decoder layers differ in attention implementation: {', '.join(sorted(names))}"
        )
    return names.pop()


def _eager(module: nn.Module) -> Callable[..., Any]:
    """``eager`` has no entry of its own: each modelling file passes its own function as default."""
    return cast(
        Callable[..., Any], vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    )


@contextmanager
def watch_attention(modules: Sequence[nn.Module], consume: Consume) -> Iterator[None]:
    """Show queries and keys of ``modules`` to ``consume`` in every forward pass inside the block.

    Args:
        modules: The decoder's self-attention modules in layer order. Other modules that share the
            attention function (the vision tower's) pass through unseen.
        consume: Gets detached tensors, layer by layer, and should keep as little as it can.

    Raises:
        ValueError: The modules do not share one attention implementation.
    """
    layer_of = {id(module): layer for layer, module in enumerate(modules)}
    name = _implementation(modules)
    previous = ALL_ATTENTION_FUNCTIONS.get(name)

    def attend(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = layer_of.get(id(module))
        if layer is not None:
            consume(layer, query.detach(), key.detach())
        original = previous or _eager(module)
        return original(module, query, key, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS[name] = attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]  # uncovers the library's own entry, if it has one
        if previous is not None and ALL_ATTENTION_FUNCTIONS.get(name) is not previous:
            ALL_ATTENTION_FUNCTIONS[name] = previous


def pick(states: Tensor, clip: Tensor, index: Tensor) -> Tensor:
    """Rows of ``B heads S dim`` at sequence positions ``P A`` of clips ``P``: ``P A heads dim``."""
    return states.transpose(1, 2)[clip[:, None], index]


def undo_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys as they left the projection: the rotation by minus the angle.

    Args:
        states: ``P A heads dim`` after the rotary embedding.
        cos, sin: ``P A dim``, both halves equal (multimodal sections already put together).
    """
    half = states.shape[-1] // 2
    rotated = torch.cat([-states[..., half:], states[..., :half]], dim=-1)
    return states * cos.unsqueeze(-2) - rotated * sin.unsqueeze(-2)
