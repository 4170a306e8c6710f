"""FLOPs and live memory of a training step, by part of the model, counted as the step runs.

The step may run on real tensors or on fake ones (shape and dtype, no content): what is counted is the same,
since it is read off the operations themselves, recomputed layers and skipped gradients included.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATTENTION = "attention"
"""Part that takes the products of queries, keys and values of the decoder."""

OTHER = "other"
"""Part of whatever happens outside of all named ones."""

GRADIENTS = "gradients"
"""Owner of gradients of parameters, once they are accumulated."""

FORWARD, BACKWARD, RECOMPUTE = "forward", "backward", "recompute"

_INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
)


class StepMeter(TorchDispatchMode):
    """Counts while it is active.

    FLOPs are those of matrix products, convolutions and attention, two for a multiplication with its addition,
    by torch's own formulas (``torch.utils.flop_counter``): attention counts the full square of the sequence,
    causal or not, and its fused backward 2.5 times its forward.

    Attributes:
        flops: ``(part, phase)`` -> FLOPs; phases are ``forward``, ``backward`` and ``recompute``.
        live: Part -> bytes alive now, of storages made while the meter was active.
        peak: The same at the fullest moment.
        peak_bytes: Their sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[tuple[str, str]] = Counter()
        self.live: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self.peak_bytes = 0
        self._total = 0
        self._storages: dict[int, list[Any]] = {}  # address -> [weak reference, bytes, owner]
        self._stack: list[str] = []
        self._starts: list[int] = [-1]  # sequence numbers of autograd at which the owner changed
        self._owners: list[str] = [OTHER]
        self._in_backward = False

    # --- who is at work -------------------------------------------------------------------

    @contextmanager
    def part(self, owner: str) -> Iterator[None]:
        """What happens in here belongs to ``owner``, and so does its backward pass."""
        self._push(owner)
        try:
            yield
        finally:
            self._pop()

    @contextmanager
    def parts_of(self, modules: Iterable[tuple[nn.Module, str]]) -> Iterator[None]:
        """Calls of these modules belong to the part named beside them."""
        handles = []
        for module, owner in modules:
            handles += [
                module.register_forward_pre_hook(lambda *_, owner=owner: self._push(owner)),
                module.register_forward_hook(lambda *_: self._pop(), always_call=True),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def wrap(self, work: Callable[..., Any], owner: str) -> Callable[..., Any]:
        """``work`` as part of ``owner``."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.part(owner):
                return work(*args, **kwargs)

        return wrapped

    def backward(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Run the backward pass; gradients of ``parameters`` change owner when they are accumulated."""
        handles = [
            parameter.register_post_accumulate_grad_hook(self._own_gradient)
            for parameter in parameters
            if parameter.requires_grad
        ]
        self._in_backward = True
        try:
            loss.backward()
        finally:
            self._in_backward = False
            for handle in handles:
                handle.remove()

    def _push(self, owner: str) -> None:
        self._stack.append(owner)
        self._mark()

    def _pop(self) -> None:
        self._stack.pop()
        self._mark()

    def _mark(self) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())
        self._owners.append(self._stack[-1] if self._stack else OTHER)

    def _owner(self) -> str:
        """Of a forward operation: the innermost part. Of a backward one: that of the node which it undoes."""
        if not self._in_backward:
            return self._stack[-1] if self._stack else OTHER
        node = torch._C._current_autograd_node()
        if node is None:
            return OTHER
        return self._owners[bisect_right(self._starts, node._sequence_nr()) - 1]

    def _phase(self) -> str:
        if not self._in_backward:
            return FORWARD
        # Only a checkpointed region that runs again records gradients inside a backward pass.
        return RECOMPUTE if torch.is_grad_enabled() else BACKWARD

    # --- operations -----------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _INDEXING and isinstance(args[0], FakeTensor):
            args = (args[0], _positions(args[1]), *args[2:])
        out = func(*args, **kwargs)
        owner = self._owner()
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            fused = "scaled_dot_product" in func._overloadpacket.__name__
            part = ATTENTION if fused and owner == "decoder" else owner
            self.flops[part, self._phase()] += count(*args, **kwargs, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._keep(leaf, owner)
        return out

    # --- memory ---------------------------------------------------------------------------

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Storages that are accounted for elsewhere: parameters, the batch."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = [weakref.ref(storage), 0, OTHER]

    def _keep(self, tensor: Tensor, owner: str) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        known = self._storages.get(address)
        if known is not None and known[0]() is not None:
            return
        size = storage.nbytes()
        gone = weakref.ref(storage, lambda _: self._drop(address))
        self._storages[address] = [gone, size, owner]
        self._add(owner, size)
        if self._total > self.peak_bytes:
            self.peak_bytes, self.peak = self._total, dict(self.live)

    def _drop(self, address: int) -> None:
        entry = self._storages.pop(address, None)
        if entry is not None:
            self._add(entry[2], -entry[1])

    def _add(self, owner: str, size: int) -> None:
        self.live[owner] += size
        self._total += size

    def _own_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        entry = self._storages.get(parameter.grad.untyped_storage()._cdata)
        if entry is not None and entry[2] != GRADIENTS:
            self._add(entry[2], -entry[1])
            entry[2] = GRADIENTS
            self._add(GRADIENTS, entry[1])


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Masks as index tensors of the same number of hits: fake tensors cannot be searched, real masks can."""
    out: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor):
            out.append(index)
        else:
            hits = int(index.sum())
            out += [torch.zeros(hits, dtype=torch.long)] * index.ndim
    return out
