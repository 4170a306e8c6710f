"""Exact greedy replies to many questions about one clip, at the price of one pass over its images.

All questions of a clip are packed as branches behind one visual prefix (a branch sees the prefix and itself),
so the next token of every question comes from a single pass. Further tokens go through the key-value cache.
Replies are those of one ordinary greedy generation a question, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spatialprior.backbones.branches import branch_mask, check_length
from spatialprior.backbones.hf import HFBackbone
from spatialprior.core.backbone import Backbone
from spatialprior.core.clip import MultiViewClip

_PAD = -1


@torch.no_grad()
def generate_packed(
    backbone: Backbone,
    clips: Sequence[MultiViewClip],
    max_new_tokens: int,
    *,
    encoder: Any = None,
    stop_ids: Sequence[int] | None = None,
) -> list[list[str]]:
    """Greedy replies to every question of every clip: one list a clip, in the order of its questions.

    Args:
        backbone: A Hugging Face backbone whose encoder has ``packed_prompts``.
        clips: Clips with at least one question each.
        max_new_tokens: Replies stop here at the latest.
        encoder: The backbone's encoder, where the caller keeps one (it remembers tokenized texts).
        stop_ids: Tokens that end a reply; by default the encoder's.

    Raises:
        ValueError: This backbone cannot pack questions.
        ContextLengthError: A clip is longer than the model's context.
    """
    encoder = backbone.encoder() if encoder is None else encoder
    if not (isinstance(backbone, HFBackbone) and hasattr(encoder, "packed_prompts")):
        raise ValueError(
            f"{type(backbone).__name__} cannot pack questions; use eval.engine=generate instead"
        )
    batch = encoder.packed_prompts(clips).to(next(backbone.parameters()).device)
    check_length(batch, backbone.context_length)
    branches, positions = batch.branches, backbone.position_ids(batch)
    base: Any = backbone.hf.base_model
    with backbone.edited(batch):
        output = base(
            **{**batch.inputs, "attention_mask": branch_mask(branches, backbone.hf.dtype)},
            position_ids=positions,
            use_cache=True,
        )
    ends, owner = _branch_ends(branches)
    rows = torch.arange(len(clips), device=branches.device).unsqueeze(1)
    token = backbone.logits(output.last_hidden_state[rows, ends]).argmax(-1)  # B K
    position = positions[..., rows, ends]
    stops = torch.tensor(stop_ids or encoder.stop_ids, device=token.device)
    done = (owner == _PAD) | torch.isin(token, stops)
    tokens = [token]
    while len(tokens) < max_new_tokens and not bool(done.all()):
        branches, position = torch.cat([branches, owner], dim=1), position + 1
        mask = branch_mask(branches, backbone.hf.dtype)[:, :, -owner.shape[1] :]
        output = base(
            input_ids=token,
            attention_mask=mask,
            position_ids=position,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        token = backbone.logits(output.last_hidden_state).argmax(-1)
        token = token.where(~done, encoder.stop_ids[-1])
        tokens.append(token)
        done |= torch.isin(token, stops)
    return _decoded(encoder, torch.stack(tokens, dim=-1), [len(clip.questions) for clip in clips])


def _branch_ends(branches: Tensor) -> tuple[Tensor, Tensor]:
    """Position of the last token of each branch and the branch's number, both ``B K``.

    Clips with fewer questions than K are filled up with position 0 and number -1.
    """
    count = int(branches.max())
    numbers = torch.arange(1, count + 1, device=branches.device)
    member = branches.unsqueeze(1) == numbers.unsqueeze(-1)  # B K S
    place = torch.arange(branches.shape[1], device=branches.device)
    ends = (member * place).amax(-1)
    return ends, torch.where(member.any(-1), numbers, _PAD)


def _decoded(encoder: Any, tokens: Tensor, counts: Sequence[int]) -> list[list[str]]:
    """``B K T`` tokens to replies, without the branches that pad a clip."""
    return [encoder.decode(row[:count]) for row, count in zip(tokens, counts, strict=True)]
