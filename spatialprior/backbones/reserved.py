"""Reserved tokens in a pass: whom they see, where they count as being, and the pass's keyword arguments."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from spatialprior.backbones.branches import seen_by_branch
from spatialprior.backbones.routing import KEYWORD, Router, Rows
from spatialprior.core.batch import ClipBatch
from spatialprior.core.reserve import FramePositions, ReservedTokens


def attention_mask(batch: ClipBatch, dtype: torch.dtype, *, training: bool) -> Tensor:
    """Additive mask ``B 1 S S``: causal (and by branch) but for the reserved tokens and their markers."""
    reserved = batch.reserved
    assert reserved is not None
    branches = batch.branches
    if branches is None:
        branches = batch.inputs["attention_mask"].long() - 1  # 0, and -1 for padding
    seen = seen_by_branch(branches)
    query, key = reserved.view.unsqueeze(2), reserved.view.unsqueeze(1)
    inside, same = (query >= 0) & (key >= 0), (query >= 0) & (query == key)
    if reserved.attention == "global":
        seen |= inside
    elif reserved.attention == "frame_causal":
        seen |= same
    else:
        whole = torch.zeros(len(seen), 1, 1, dtype=torch.bool, device=seen.device)
        if reserved.attention == "mixed":
            drawn = [not training or _coin(name, batch.step) for name in batch.clip_ids]
            whole = torch.tensor(drawn, device=seen.device).view(-1, 1, 1)
        seen = torch.where(inside, same | whole, seen)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)


def _coin(clip_id: str, step: int) -> bool:
    """The same draw in every process and after a resume."""
    return bool(hashlib.blake2b(f"{step} {clip_id}".encode(), digest_size=1).digest()[0] & 1)


def placed(positions: Tensor, reserved: ReservedTokens) -> tuple[Tensor, Tensor]:
    """Rotary positions with the reserved blocks laid out as grids, and how far later tokens moved.

    A view's markers take one position each; its patches those of its grid, on as many axes as there are; what
    comes behind goes on where the last view ends (G2VLM [C]).

    Args:
        positions: ``3 B S`` or ``B S``, reserved tokens counted one by one like words.
        reserved: Where they sit.

    Returns:
        New positions, and ``B`` long: by how much tokens behind the blocks come earlier.
    """
    flat = positions.ndim == 2
    out = positions.unsqueeze(0).clone() if flat else positions.clone()
    shift = torch.zeros(len(reserved.view), dtype=torch.long, device=positions.device)
    for b, view in enumerate(reserved.view):
        block = (view >= 0).nonzero().squeeze(1)
        if not len(block):
            continue
        start, end = int(block[0]), int(block[-1]) + 1
        grids = [(rows, cols) for rows, cols in reserved.token_map.grid[b].tolist() if rows]
        offsets, advance = _offsets(grids, reserved.markers, reserved.positions, len(out))
        shift[b] = len(block) - advance
        out[:, b, end:] -= shift[b]
        out[:, b, start:end] = out[:, b, start, None] + offsets.to(out)
    return (out[0] if flat else out), shift


def _offsets(
    grids: list[tuple[int, int]], markers: tuple[int, int], positions: FramePositions, axes: int
) -> tuple[Tensor, int]:
    """``axes L`` places of a block's tokens behind its start, and its extent."""
    before, behind = markers
    parts, start, extent = [], 0, 0
    for rows, cols in grids:
        cell = torch.arange(rows * cols)
        span = max(rows, cols) if axes == 3 else rows * cols
        grid = torch.stack([0 * cell, cell // cols, cell % cols]) if axes == 3 else cell[None]
        first = start + before
        parts += [
            (start + torch.arange(before)).expand(axes, -1),
            first + grid,
            (first + span + torch.arange(behind)).expand(axes, -1),
        ]
        taken = before + span + behind
        extent = max(extent, start + taken)
        start += taken if positions == "sequential" else 0
    return torch.cat(parts, dim=1), extent


def reserved_inputs(
    mask: Tensor, positions: Tensor, shift: Tensor, rows: Rows, router: Router | None
) -> Any:
    """Pre-hook of the decoder: mask, positions and path of a pass over the whole batch.

    Later steps of a generation bring words alone: these are only told how far their positions moved.
    """
    tokens = mask.shape[0], mask.shape[-1]

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        whole = kwargs["inputs_embeds"].shape[:2] == tokens
        if router is not None:
            router.final.rows = rows if whole else None
        if whole:
            changed = {"attention_mask": mask, "position_ids": positions}
            return args, {**kwargs, **changed, **({KEYWORD: rows} if router else {})}
        later = kwargs["position_ids"] - shift.unsqueeze(1)
        if later.ndim == 3 and len(later) == 4:  # the first row counts tokens, for packing
            later = torch.cat([kwargs["position_ids"][:1], later[1:]])
        return args, {**kwargs, "position_ids": later}

    return hook
