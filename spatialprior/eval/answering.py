"""From a batch to replies: both engines, conversations, and what to do when one question cannot be answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch

from spatialprior.core.backbone import Backbone
from spatialprior.core.clip import MultiViewClip
from spatialprior.eval.batches import Batch
from spatialprior.eval.benchmark import Item
from spatialprior.eval.conversations import Turn, asked_behind, asks_in_place
from spatialprior.eval.failures import Failure, is_broken_device
from spatialprior.eval.generate_packed import generate_packed
from spatialprior.eval.media_cache import Views
from spatialprior.eval.replies import Reply


@dataclass(frozen=True)
class Prompt:
    """A question ready to be asked.

    Attributes:
        item: The question's.
        clip: Its views, with the question as the last one behind the turns before it.
    """

    item: Item
    clip: MultiViewClip


class Generation:
    """Greedy replies of a model.

    Args:
        model: In evaluation mode.
        max_new_tokens: Replies stop here at the latest.
    """

    def __init__(self, model: Backbone, max_new_tokens: int) -> None:
        self.model, self.max_new_tokens = model, max_new_tokens
        self.encoder: Any = model.encoder()

    def __call__(self, prompts: Sequence[Prompt], packed: bool) -> list[str]:
        """One reply a prompt; ``packed`` as in :class:`~spatialprior.eval.batches.Batch`."""
        if packed:
            groups = [list(group) for group in _by_clip(prompts)]
            clips = [g[0].clip.with_questions(tuple(p.item.question for p in g)) for g in groups]
        else:
            clips = [prompt.clip for prompt in prompts]
        return replies_to(clips, self.model, self.encoder, self.max_new_tokens, packed)


def replies_to(
    clips: Sequence[MultiViewClip],
    model: Backbone,
    encoder: Any,
    max_new_tokens: int,
    packed: bool,
) -> list[str]:
    """Greedy replies in the order of clips and questions; without ``packed`` to the last question of each."""
    if packed:
        replies = generate_packed(model, clips, max_new_tokens, encoder=encoder)
        return list(chain.from_iterable(replies))
    batch = encoder.prompts(clips).to(next(model.parameters()).device)
    said: list[str] = encoder.decode(model.generate(batch, max_new_tokens))
    return said


Generate = Callable[[Sequence[Prompt], bool], list[str]]


def answer(
    generate: Generate, batch: Batch, views: Views, known: Mapping[str, Reply]
) -> Iterator[tuple[Item, Reply]]:
    """Replies to a batch, one by one.

    Rounds whose replies are all known are not asked again; from the first other one on, all are.

    Args:
        generate: Of the model.
        batch: What is asked.
        views: Of all its items.
        known: Item id -> reply, of an earlier attempt.
    """
    talks: dict[str, list[Turn]] = {}
    in_place = asks_in_place(batch.items, views)
    asking = False
    for each in batch.rounds:
        asking = asking or any(item.item_id not in known for item in each)
        if not asking:
            for item in each:
                _remember(talks, item, views, known[item.item_id])
            continue
        prompts = []
        for item in each:
            clip = views[item.clip.clip_id]
            if isinstance(clip, Failure):
                yield item, Reply("", clip.message)
            elif item.dialogue is None:
                prompts.append(Prompt(item, clip.with_questions((item.question,))))
            else:
                turn = Turn(item.question, clip)
                turns = talks.get(item.dialogue, [])
                marked = in_place[item.dialogue]
                prompts.append(Prompt(item, asked_behind(turns, turn, item.dialogue, marked)))
        for prompt, reply in _answered(generate, prompts, batch.packed):
            _remember(talks, prompt.item, views, reply)
            yield prompt.item, reply


def _remember(talks: dict[str, list[Turn]], item: Item, views: Views, reply: Reply) -> None:
    """Keep a turn for those that follow. One that failed is left out, as if it had not been asked."""
    clip = views[item.clip.clip_id]
    if item.dialogue is not None and reply.error is None and isinstance(clip, MultiViewClip):
        talks.setdefault(item.dialogue, []).append(Turn(item.question, clip, reply.text))


def _answered(
    generate: Generate, prompts: Sequence[Prompt], packed: bool
) -> Iterator[tuple[Prompt, Reply]]:
    """Replies in order; where a batch fails its parts are tried, so that only the culprit fails."""
    pieces = [list(prompts)] if prompts else []
    while pieces:
        piece = pieces.pop(0)
        said = _tried(generate, piece, packed)
        if not isinstance(said, Failure):
            yield from ((p, Reply(text)) for p, text in zip(piece, said, strict=True))
        elif len(piece) == 1:
            yield piece[0], Reply("", said.message)
        else:
            pieces = [*_smaller(piece, said, packed), *pieces]


def _tried(generate: Generate, prompts: Sequence[Prompt], packed: bool) -> list[str] | Failure:
    try:
        return generate(prompts, packed)
    except Exception as error:  # whatever it is, it must not cost the other questions their replies
        if is_broken_device(error):
            raise  # every further question would fail; a new process goes on from here
        failure = Failure.of(error)
    if failure.out_of_memory and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failure


def _smaller(prompts: list[Prompt], failure: Failure, packed: bool) -> list[list[Prompt]]:
    """Halves where memory ran out; else the clips one by one, then the questions."""
    units = [list(group) for group in _by_clip(prompts)] if packed else [[p] for p in prompts]
    if len(units) == 1:
        units = [[prompt] for prompt in prompts]
    if not failure.out_of_memory:
        return units
    middle = len(units) // 2
    return [list(chain.from_iterable(half)) for half in (units[:middle], units[middle:])]


def _by_clip(prompts: Sequence[Prompt]) -> Iterator[Iterator[Prompt]]:
    return (group for _, group in groupby(prompts, key=lambda p: p.item.clip.clip_id))
