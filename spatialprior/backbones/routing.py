"""Reserved tokens take another path: twins of everything that a decoder layer does to each token by itself.

No module is wrapped and no key changes. The parts get a ``forward`` of their own, and each layer a subclass of
its class that knows which tokens to send where. It knows that from a keyword argument, because those are what
gradient checkpointing keeps: it runs the layer again with the arguments of the first time, hooks left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spatialprior.core.backbone import Twin

_OURS = "_knows_reserved_rows"
KEYWORD = "reserved_rows"
"""The decoder hands keyword arguments that it does not know to its layers."""


@dataclass(frozen=True)
class Rows:
    """Rows of a pass's ``B S`` tokens, flattened.

    Attributes:
        reserved, others: Which are reserved, and which are not.
        back: Puts ``cat(others, reserved)`` in order again.
    """

    reserved: Tensor
    others: Tensor
    back: Tensor

    @classmethod
    def of(cls, patches: Tensor) -> Rows:
        """From a ``B S`` mask of the reserved tokens."""
        flat = patches.flatten()
        reserved, others = flat.nonzero().squeeze(1), (~flat).nonzero().squeeze(1)
        return cls(reserved, others, torch.cat([others, reserved]).argsort())


class State:
    """Which rows the parts of one layer send where, during its forward pass."""

    rows: Rows | None = None


class _RoutedPart:
    """The ``forward`` of a part: stock for the others, the twin for the reserved."""

    def __init__(self, name: str, stock: nn.Module, twin: Twin, state: State) -> None:
        self.name, self.stock, self.twin, self.state = name, stock, twin, state
        self.forward: Callable[[Tensor], Tensor] = stock.forward

    def __call__(self, tokens: Tensor) -> Tensor:
        rows = self.state.rows
        if rows is None:
            return self.forward(tokens)
        flat = tokens.flatten(0, 1)
        twin = self.twin(self.name, flat.index_select(0, rows.reserved), self.stock)
        if not len(rows.reserved):  # bitwise the stock pass, the twin taking part with nothing
            return self.forward(tokens) + twin.sum()
        others = self.forward(flat.index_select(0, rows.others))
        joined = torch.cat([others, twin.to(others.dtype)]).index_select(0, rows.back)
        return joined.unflatten(0, tokens.shape[:2])


def _knowing(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a decoder layer's class that takes :data:`KEYWORD`."""

    def forward(self: Any, *args: Any, reserved_rows: Rows | None = None, **kwargs: Any) -> Any:
        state: State = self.__dict__.get("_reserved", State())  # none once the path is removed
        state.rows = reserved_rows
        try:
            return cls.forward(self, *args, **kwargs)
        finally:
            state.rows = None

    body = {"forward": forward, "__module__": cls.__module__, _OURS: True}
    return type(cls.__name__, (cls,), body)


class Router:
    """The twins in place on a decoder.

    Args:
        layers: The decoder layers.
        parts: Of each, its parts by name.
        twins: Of each, its twin.
        norm: The final norm, and its twin.

    Attributes:
        final: Which rows the final norm sends where; set from outside, as no checkpoint runs it again.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        parts: Sequence[Mapping[str, nn.Module]],
        twins: Sequence[Twin],
        norm: tuple[nn.Module, Twin],
    ) -> None:
        self.layers = list(layers)
        self.states = [State() for _ in layers]
        self.final = State()
        self.routed = [_RoutedPart("norm", norm[0], norm[1], self.final)]
        for own, twin, state in zip(parts, twins, self.states, strict=True):
            self.routed += [_RoutedPart(name, part, twin, state) for name, part in own.items()]
        self.install()

    def install(self) -> None:
        """Put the twins in place, again after :meth:`remove`."""
        classes: dict[type[nn.Module], type[nn.Module]] = {}
        for layer, state in zip(self.layers, self.states, strict=True):
            if "forward" in layer.__dict__:
                raise ValueError(
                    "the decoder layers are compiled already, which hides them from a prior's path through "
                    "them: set scale.compile=false"
                )
            layer.__dict__["_reserved"] = state
            layer.__class__ = classes.setdefault(type(layer), _knowing(type(layer)))
        for routed in self.routed:
            routed.stock.forward = routed

    def remove(self) -> None:
        """Every module as it was."""
        for routed in self.routed:
            del routed.stock.__dict__["forward"]
        for layer in self.layers:
            del layer.__dict__["_reserved"]
            # Sharding may have put a class of its own around ours.
            (ours,) = (cls for cls in type(layer).__mro__ if _OURS in cls.__dict__)
            if type(layer) is ours:
                layer.__class__ = ours.__mro__[1]
