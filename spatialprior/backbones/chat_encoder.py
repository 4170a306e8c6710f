"""Clips to model inputs through the model's own processor and chat template.

Frames go in as separate images in front of the question. Several questions about one clip share one
visual prefix: their tokens are packed behind it as branches that do not see each other, which trains the
same conditional distributions as one sequence a question, at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import ProcessorMixin

from spatialprior.core.batch import IGNORE, ClipBatch
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.core.token_map import TokenMap

_CAPTION_FREE = Question(task="", text="", answer="")


class ChatEncoder:
    """Weight-free encoder for processors with ``image_grid_thw`` (the Qwen-VL families)."""

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_id = self.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.merge = processor.image_processor.merge_size
        self._ids: dict[str, list[int]] = {}

    def __call__(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        pixels, grids = self._images(clips)
        rows: list[list[int]] = []
        labels: list[list[int]] = []
        branches: list[list[int]] = []
        cursor = 0
        for clip in clips:
            clip_grids = grids[cursor : cursor + clip.num_views]
            cursor += clip.num_views
            ids, target, branch = [], [], []
            for k, question in enumerate(clip.questions or (_CAPTION_FREE,), start=1):
                prefix, prompt, answer = self._pieces(clip, question, clip_grids)
                if k == 1:
                    ids, target, branch = list(prefix), [IGNORE] * len(prefix), [0] * len(prefix)
                if clip.questions:
                    ids += prompt + answer
                    target += [IGNORE] * len(prompt) + answer
                    branch += [k] * (len(prompt) + len(answer))
            rows.append(ids)
            labels.append(target)
            branches.append(branch)
        packed = any(len(clip.questions) > 1 for clip in clips)
        batch = self._batch(clips, rows, pixels, grids, left=False)
        length = batch.inputs["input_ids"].shape[1]
        return ClipBatch(
            inputs=batch.inputs,
            labels=_pad(labels, length, IGNORE, left=False),
            token_map=batch.token_map,
            clips=batch.clips,
            branches=_pad(branches, length, -1, left=False) if packed else None,
        )

    def prompts(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        """Encode clips of exactly one question each without the answer, padded on the left."""
        pixels, grids = self._images(clips)
        rows, cursor = [], 0
        for clip in clips:
            if len(clip.questions) != 1:
                raise ValueError(
                    f"clip {clip.clip_id} has {len(clip.questions)} questions; a prompt takes one"
                )
            clip_grids = grids[cursor : cursor + clip.num_views]
            cursor += clip.num_views
            prefix, prompt, _ = self._pieces(clip, clip.questions[0], clip_grids)
            rows.append(prefix + prompt)
        return self._batch(clips, rows, pixels, grids, left=True)

    def packed_prompts(self, clips: Sequence[MultiViewClip]) -> ClipBatch:
        """Encode clips with all their questions as branches behind one visual prefix, without answers."""
        pixels, grids = self._images(clips)
        rows: list[list[int]] = []
        branches: list[list[int]] = []
        cursor = 0
        for clip in clips:
            if not clip.questions:
                raise ValueError(f"clip {clip.clip_id} has no question to answer")
            clip_grids = grids[cursor : cursor + clip.num_views]
            cursor += clip.num_views
            ids: list[int] = []
            branch: list[int] = []
            for k, question in enumerate(clip.questions, start=1):
                prefix, prompt, _ = self._pieces(clip, question, clip_grids)
                if k == 1:
                    ids, branch = list(prefix), [0] * len(prefix)
                ids += prompt
                branch += [k] * len(prompt)
            rows.append(ids)
            branches.append(branch)
        batch = self._batch(clips, rows, pixels, grids, left=False)
        return replace(batch, branches=_pad(branches, batch.labels.shape[1], -1, left=False))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply: the end of a turn, and the end of text that pads a batch."""
        return tuple(dict.fromkeys((self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)))

    def decode(self, tokens: Tensor) -> list[str]:
        return [
            text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ]

    # --- pieces ---------------------------------------------------------------------------

    def _images(self, clips: Sequence[MultiViewClip]) -> tuple[Tensor, Tensor]:
        views = [view for clip in clips for view in clip.images]
        out = self.processor.image_processor(images=views, return_tensors="pt")
        return out["pixel_values"], out["image_grid_thw"]

    def _pieces(
        self, clip: MultiViewClip, question: Question, grids: Tensor
    ) -> tuple[list[int], list[int], list[int]]:
        """Token ids of (visual prefix, question up to the assistant's turn, answer with its end token)."""
        if self.processor.image_token in question.text + question.answer:
            raise ValueError(
                f"clip {clip.clip_id}: the question {question.text!r} or its answer contains "
                f"{self.processor.image_token}; images go in by themselves, name them in words"
            )
        content: list[dict[str, str]] = [{"type": "image"} for _ in range(clip.num_views)]
        content.append({"type": "text", "text": question.text})
        turn = [{"role": "user", "content": content}]
        prompt = self.processor.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True
        )
        image_token = self.processor.image_token
        head, _, tail = prompt.rpartition(image_token)
        end = tail.index(">") + 1  # the token that closes the last image
        segments = (head + image_token + tail[:end]).split(image_token)
        prefix = self._tokenize(segments[0])
        for segment, grid in zip(segments[1:], grids.tolist(), strict=True):
            prefix = (
                prefix
                + [self.image_id] * (grid[1] * grid[2] // self.merge**2)
                + self._tokenize(segment)
            )
        answer = [*self._tokenize(question.answer), self.tokenizer.eos_token_id]
        return prefix, self._tokenize(tail[end:]), answer

    def _tokenize(self, text: str) -> list[int]:
        if text not in self._ids:
            if len(self._ids) > 100_000:
                self._ids.clear()
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(self._ids[text])

    def _batch(
        self,
        clips: Sequence[MultiViewClip],
        rows: list[list[int]],
        pixels: Tensor,
        grids: Tensor,
        *,
        left: bool,
    ) -> ClipBatch:
        length = max(map(len, rows))
        ids = _pad(rows, length, self.tokenizer.pad_token_id, left=left)
        attention = _pad([[1] * len(row) for row in rows], length, 0, left=left)
        visual = ids == self.image_id
        inputs = {
            "input_ids": ids,
            "attention_mask": attention,
            "mm_token_type_ids": visual.long(),
            "pixel_values": pixels,
            "image_grid_thw": grids,
        }
        return ClipBatch(
            inputs=inputs,
            labels=torch.full_like(ids, IGNORE),
            token_map=_token_map(clips, visual, grids[:, 1:] // self.merge),
            clips=tuple(clips),
        )


def _pad(rows: list[list[int]], length: int, value: int, *, left: bool) -> Tensor:
    filled = [
        [value] * (length - len(r)) + r if left else r + [value] * (length - len(r)) for r in rows
    ]
    return torch.tensor(filled, dtype=torch.long)


def _token_map(clips: Sequence[MultiViewClip], visual: Tensor, grids: Tensor) -> TokenMap:
    """Visual positions in sequence order are the views' tokens in row-major order, view after view."""
    num_clips, num_views = len(clips), max(clip.num_views for clip in clips)
    num_tokens = int(grids.prod(-1).max())
    index = torch.zeros(num_clips, num_views, num_tokens, dtype=torch.long)
    valid = torch.zeros(num_clips, num_views, num_tokens, dtype=torch.bool)
    grid = torch.zeros(num_clips, num_views, 2, dtype=torch.long)
    size = torch.zeros(num_clips, num_views, 2)
    cursor = 0
    for b, clip in enumerate(clips):
        positions = visual[b].nonzero().squeeze(1)
        start = 0
        for v in range(clip.num_views):
            count = int(grids[cursor].prod())
            index[b, v, :count] = positions[start : start + count]
            valid[b, v, :count] = True
            grid[b, v] = grids[cursor]
            size[b, v] = torch.tensor(clip.image_sizes[v], dtype=torch.float32)
            start += count
            cursor += 1
        assert start == len(positions), (
            "image tokens in the text do not match the processor's grids"
        )
    return TokenMap(index=index, valid=valid, grid=grid, image_size=size)
