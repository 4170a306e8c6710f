"""Clips to model inputs through the model's own processor and chat template.

Several independent questions about one clip share one visual prefix: their tokens are packed behind it as
branches that do not see each other, which trains the same conditional distributions as one sequence a
question, at a fraction of the cost. The turns of a dialogue follow each other in one sequence.

Token ids of a prompt are those of the processor's ``apply_chat_template(..., tokenize=True)``. In a row to
train on, every answer begins where the model would begin it (at the generation prompt) and is followed by the
tokenizer's end token, also where a template leaves that out between the turns of a dialogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from spatialprior.backbones.conversation import (
    ChatTemplate,
    check_text,
    contents,
    is_interleaved,
)
from spatialprior.backbones.echo import split_echo, with_echo
from spatialprior.backbones.reserving import block, reserved_tokens, without_views
from spatialprior.backbones.rows import Row, common, pad
from spatialprior.backbones.visuals import ViewGrid, Visual, Visuals, token_map
from spatialprior.core.backbone import Frames
from spatialprior.core.batch import IGNORE, ClipBatch
from spatialprior.core.clip import MultiViewClip
from spatialprior.core.reserve import Reserve, ReservedTokens

FPS = 2.0
"""Frames a second that the views of a video count as, where a family tells time: clips carry no clock."""


class ChatEncoder:
    """Weight-free encoder; a family says how its processor lays out images and videos.

    Args:
        processor: The stock processor.
        frames: How the views of a clip go in. Where a question says where a view stands, views differ in size,
            or there are fewer than the family's video takes, they go in as images all the same.
        max_pixels: Upper bound on pixels a frame of a video, where the family's processor takes one.
        echo: Give every view a second time, see :mod:`~spatialprior.backbones.echo`.
        reserve: Tokens to put in front of the views, see :mod:`~spatialprior.backbones.reserving`.
    """

    min_video_frames: ClassVar[int] = 1
    token_types: ClassVar[bool] = False
    """Whether the model wants ``mm_token_type_ids``."""

    def __init__(
        self,
        processor: Any,
        frames: Frames = "images",
        max_pixels: int | None = None,
        echo: bool = False,
        reserve: Reserve | None = None,
    ) -> None:
        self.processor, self.frames, self.max_pixels = processor, frames, max_pixels
        self.reserve = reserve
        self._alone = reserve is not None and reserve.alone
        self.echo = echo and not self._alone
        self.tokenizer = processor.tokenizer
        tokens = (processor.image_token, getattr(processor, "video_token", None))
        self.placeholders = tuple(token for token in tokens if token is not None)
        self.visual_ids = tuple(self.tokenizer.convert_tokens_to_ids(list(self.placeholders)))
        self.image_id, self.video_id = (*self.visual_ids, -1)[:2]
        self.template = ChatTemplate(processor, self.tokenizer.eos_token)
        self._ids: dict[tuple[str, bool], list[int]] = {}
        self._visual_lengths: dict[tuple[bool, tuple[tuple[int, int], ...]], int] = {}

    # --- what a family says ---------------------------------------------------------------

    def image_grid(
        self, out: Any, index: int, frame: int, size: tuple[int, int], alone: bool
    ) -> ViewGrid:
        """Grid of image ``index`` of the processor's output ``out``, which is view ``frame`` of its clip.

        ``size`` is the view's ``(height, width)``, ``alone`` whether its clip has no other.
        """
        raise NotImplementedError

    def video_grids(self, out: Any, clip: MultiViewClip) -> tuple[ViewGrid, ...]:
        """Grids of a clip's views as one video, from the processor's output for it."""
        raise NotImplementedError

    def join_videos(self, outs: Sequence[Any], clips: Sequence[MultiViewClip]) -> dict[str, Tensor]:
        """The model's inputs for several videos, from the processor's output for each."""
        raise NotImplementedError

    def video_options(self, clip: MultiViewClip) -> dict[str, Any]:
        """Further arguments of the processor for a clip's video."""
        return {}

    @property
    def view_markers(self) -> tuple[list[int], list[int]]:
        """Token ids that stand before and behind the tokens of a view."""
        return [], []

    # --- batches --------------------------------------------------------------------------

    def __call__(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        if self._alone:  # no answer is learnt then
            clips = [clip.with_questions(()) for clip in clips]
        packed = any(len(clip.questions) > 1 and not clip.dialogue for clip in clips)
        shown = self._shown(clips)
        rows = [self._row(clip) for clip in shown]
        return self._batch(clips, shown, rows, packed=packed)

    def prompts(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        """Encode clips of exactly one question each without the answer, padded on the left.

        Of a dialogue the last question is asked; the others and their answers come before it.
        """
        rows, shown = [], self._shown(clips)
        for clip in shown:
            if len(clip.questions) != 1 and not (clip.dialogue and clip.questions):
                raise ValueError(
                    f"clip {clip.clip_id} has {len(clip.questions)} questions; a prompt takes one"
                )
            answers = [question.answer for question in clip.questions[:-1]]
            row = Row()
            row.add(self._tokenize(self.template.prompt(self._said(clip), answers)))
            rows.append(row)
        return self._batch(clips, shown, rows, left=True)

    def packed_prompts(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        """Encode clips with all their questions as branches behind one visual prefix, without answers."""
        for clip in clips:
            if not clip.questions:
                raise ValueError(f"clip {clip.clip_id} has no question to answer")
            if clip.dialogue and len(clip.questions) > 1:
                raise ValueError(
                    f"clip {clip.clip_id} is a dialogue: its questions are answered one after the other; "
                    "use eval.engine=generate"
                )
        shown = self._shown(clips)
        rows = [self._branches(clip, answers=False) for clip in shown]
        return self._batch(clips, shown, rows, packed=True)

    def length(self, clip: MultiViewClip) -> int:
        """Tokens of a clip's row to train on; pixels are looked at once for each set of image sizes."""
        reserved = len(self._block(clip)[0])
        clip = clip.with_questions(()) if self._alone else clip
        (clip,) = self._shown([clip])
        key = (self.as_video(clip), tuple(clip.image_sizes))
        if key not in self._visual_lengths:
            sizes = [torch.zeros(3, *size, dtype=torch.uint8) for size in key[1]]
            same = sizes and len(set(key[1])) == 1
            blank = replace(clip, images=torch.stack(sizes) if same else tuple(sizes))
            (items,) = self._visuals([blank]).of_clip
            self._visual_lengths[key] = sum(len(item.tokens) - 1 for item in items)
        return len(self._row(clip).ids) + self._visual_lengths[key] + reserved

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply: the end of a turn, and the end of text that pads a batch."""
        return tuple(dict.fromkeys((self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)))

    def decode(self, tokens: Tensor) -> list[str]:
        return [
            text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ]

    def _shown(self, clips: Sequence[MultiViewClip]) -> Sequence[MultiViewClip]:
        """The clips as the processor gets them."""
        if self._alone:
            return [without_views(clip) for clip in clips]
        return [with_echo(clip) for clip in clips] if self.echo else clips

    # --- rows, with one token for each image or video -------------------------------------

    def as_video(self, clip: MultiViewClip) -> bool:
        """Whether the views of this clip go in as one video."""
        fits = len(set(clip.image_sizes)) == 1 and clip.num_views >= self.min_video_frames
        return self.frames == "video" and fits and not is_interleaved(clip)

    def _said(self, clip: MultiViewClip) -> list[Any]:
        for question in clip.questions:
            check_text(clip, question, self.placeholders)
        return contents(clip, video=self.as_video(clip))

    def _row(self, clip: MultiViewClip) -> Row:
        """A row to train on."""
        if not clip.questions:
            row = Row()
            row.add(self._tokenize(self._opening(clip)))
            return row
        if not clip.dialogue or len(clip.questions) == 1:
            return self._branches(clip, answers=True)
        row, said = Row(), self._said(clip)
        answers = [question.answer for question in clip.questions]
        row.add(self._tokenize(self.template.prompt(said[:1], [])))
        for k, answer in enumerate(answers, start=1):
            row.add(self._answer(answer), scored=True)
            if k < len(answers):
                text = self.template.continuation(said[: k + 1], answers[:k])
                row.add(self._tokenize(text, inside=True))
        return row

    def _branches(self, clip: MultiViewClip, *, answers: bool) -> Row:
        """The clip's questions behind what they share: the views and what the template says before them."""
        prompts = [
            self._tokenize(self.template.prompt([content], [])) for content in self._said(clip)
        ]
        shared = common(prompts, self._tokenize(self._opening(clip)))
        if is_interleaved(clip):  # a single question: all up to its last view is the visual prefix
            places = [place for place, token in enumerate(prompts[0]) if token in self.visual_ids]
            shared = 1 + places[-1]
        row = Row()
        row.add(prompts[0][:shared])
        for k, (question, prompt) in enumerate(zip(clip.questions, prompts, strict=True), start=1):
            row.add(prompt[shared:], branch=k)
            if answers:
                row.add(self._answer(question.answer), scored=True, branch=k)
        return row

    def _opening(self, clip: MultiViewClip) -> str:
        """The text up to the first question."""
        bare = replace(clip, questions=())
        views = [{"type": "video"}] if self.as_video(bare) else [{"type": "image"}] * clip.num_views
        return self.template.opening(views if clip.num_views else [])

    def _answer(self, answer: str) -> list[int]:
        text = self.template.lead + answer
        return [*self._tokenize(text, inside=True), self.tokenizer.eos_token_id]

    def _tokenize(self, text: str, *, inside: bool = False) -> list[int]:
        """Token ids of a text; ``inside``: it goes on from another one."""
        key = (text, inside)
        if key not in self._ids:
            if len(self._ids) > 100_000:
                self._ids.clear()
            start = self.tokenizer.bos_token
            # As the processors do: no second start token where the template writes it.
            bare = inside or (start is not None and text.startswith(start))
            self._ids[key] = self.tokenizer(text, add_special_tokens=not bare)["input_ids"]
        return self._ids[key]

    # --- images and videos ----------------------------------------------------------------

    def _visuals(self, clips: Sequence[MultiViewClip]) -> Visuals:
        of_clip: list[list[Visual]] = [[] for _ in clips]
        inputs: dict[str, Tensor] = {}
        videos = [b for b, clip in enumerate(clips) if self.as_video(clip)]
        if images := [b for b, clip in enumerate(clips) if clip.num_views and b not in videos]:
            chosen = [clips[b] for b in images]
            text = [self.processor.image_token * clip.num_views for clip in chosen]
            views = [list(clip.images) for clip in chosen]
            out, tokens = self._process(text, images=views)
            index = 0
            for b, replaced in zip(images, tokens, strict=True):
                for frame, (ids, size) in enumerate(
                    zip(replaced, clips[b].image_sizes, strict=True)
                ):
                    grid = self.image_grid(out, index, frame, size, len(replaced) == 1)
                    of_clip[b].append(Visual(ids, (grid,)))
                    index += 1
            inputs |= out
        outs = []
        for b in videos:
            out, tokens = self._process(
                [self.processor.video_token],
                videos=[clips[b].images],
                do_sample_frames=False,
                **self.video_options(clips[b]),
            )
            of_clip[b] = [Visual(tokens[0][0], self.video_grids(out, clips[b]))]
            outs.append(out)
        if outs:
            inputs |= self.join_videos(outs, [clips[b] for b in videos])
        return Visuals(inputs, of_clip)

    def _process(self, text: list[str], **kwargs: Any) -> tuple[dict[str, Any], list[Any]]:
        """Pixels, and for each text the token ids that replace each of its placeholders."""
        out = self.processor(
            text=text,
            padding=True,
            return_text_replacement_offsets=True,
            return_tensors="pt",
            **kwargs,
        )
        tokens = [
            [self._tokenize(found["replacement"], inside=True) for found in replaced]
            for replaced in out["text_replacement_offsets"]
        ]
        textual = ("text_replacement_offsets", "input_ids", "attention_mask", "mm_token_type_ids")
        return {name: value for name, value in out.items() if name not in textual}, tokens

    def _batch(
        self,
        clips: Sequence[MultiViewClip],
        shown: Sequence[MultiViewClip],
        rows: list[Row],
        *,
        left: bool = False,
        packed: bool = False,
    ) -> ClipBatch:
        visuals = self._visuals(shown)
        rows = [
            self._with_block(row, clip, bare)
            for row, clip, bare in zip(rows, clips, shown, strict=True)
        ]
        full = [
            self._expand(row, items, clip)
            for row, items, clip in zip(rows, visuals.of_clip, shown, strict=True)
        ]
        ids = pad([row.ids for row in full], self.tokenizer.pad_token_id, left=left)
        inputs = {
            "input_ids": ids,
            "attention_mask": pad([[1] * len(row.ids) for row in full], 0, left=left),
        }
        if self.token_types:
            inputs["mm_token_type_ids"] = (ids == self.image_id) + 2 * (ids == self.video_id)
        visual = torch.isin(ids, torch.tensor(self.visual_ids))
        branches = pad([row.branches for row in full], -1, left=left) if packed else None
        layout, echo = token_map(visual, visuals.of_clip, self.visual_ids), None
        if self.echo:
            layout, echo = split_echo(layout, clips)
        return ClipBatch(
            inputs=inputs | visuals.inputs,
            labels=pad([row.labels for row in full], IGNORE, left=left),
            token_map=layout,
            visual=visual,
            clips=tuple(clips),
            branches=branches,
            echo=echo,
            reserved=self._reserved(clips, full, ids, left=left),
        )

    # --- reserved tokens ------------------------------------------------------------------

    def _block(self, clip: MultiViewClip) -> tuple[list[int], list[int]]:
        """Token ids of the clip's reserved tokens and markers, and their views."""
        if self.reserve is None:
            return [], []
        return block(clip, self.reserve, self.view_markers, self.tokenizer.pad_token_id)

    def _with_block(self, row: Row, clip: MultiViewClip, shown: MultiViewClip) -> Row:
        """The row with the clip's block in front of its first view, or where that would be."""
        ids, views = self._block(clip)
        if not ids:
            return row
        before = self.view_markers[0]
        if any(token in self.visual_ids for token in row.ids):
            place = next(i for i, token in enumerate(row.ids) if token in self.visual_ids)
            if before and row.ids[place - len(before) : place] == before:
                place -= len(before)
        else:
            place = common([row.ids], self._tokenize(self._opening(shown)))
        full = Row()
        full.copy(row, 0, place)
        full.add(ids, views=views)
        full.copy(row, place, None)
        return full

    def _reserved(
        self, clips: Sequence[MultiViewClip], rows: Sequence[Row], ids: Tensor, *, left: bool
    ) -> ReservedTokens | None:
        if self.reserve is None:
            return None
        view = pad([row.views for row in rows], -1, left=left)
        patches = (view >= 0) & (ids == self.tokenizer.pad_token_id)
        return reserved_tokens(clips, self.reserve, self.view_markers, view, patches)

    def _expand(self, row: Row, visuals: Sequence[Visual], clip: MultiViewClip) -> Row:
        """The row with every placeholder replaced by its image's or video's tokens."""
        full, done = Row(), 0
        places = [place for place, token in enumerate(row.ids) if token in self.visual_ids]
        if len(places) != len(visuals):
            raise ValueError(
                f"clip {clip.clip_id}: the chat template wrote {len(places)} of its {len(visuals)} images or "
                f"videos; does it take a {'video' if self.as_video(clip) else 'image'}? "
                "See backbone.frames, or give the processor a template that does"
            )
        for place, item in zip(places, visuals, strict=True):
            full.copy(row, done, place)
            full.add(item.tokens, branch=row.branches[place])
            done = place + 1
        full.copy(row, done, None)
        return full
