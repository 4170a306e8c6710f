"""A benchmark asked with its views taken away or shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.eval.ablation.names import VIEWS
from spatialprior.eval.ablation.views import another_order, kept_view, with_views, without_marks
from spatialprior.eval.benchmark import Benchmark, Graded, Item, LazyViews
from spatialprior.registry import suggest

Views = MultiViewClip | LazyViews


class Ablated(Benchmark):
    """The same items, record by record and id by id, shown otherwise; replies are graded as ever.

    ``blind``: no views, and no marks of them in the text; nothing is read from disk. ``single_frame``: of a
    benchmark of videos (its protocol says how many frames) the middle view, of others the first; of a
    dialogue that of the first turn which shows any. ``shuffled_frames``: the views of each item in another
    order, drawn from the clip's id; marks stay where they are.

    Args:
        benchmark: The whole one.
        ablation: One of :data:`~spatialprior.eval.ablation.names.VIEWS`.

    Raises:
        ValueError: There is no such ablation.
    """

    def __init__(self, benchmark: Benchmark, ablation: str) -> None:
        if ablation not in VIEWS:
            raise ValueError(f"{ablation!r} is no ablation of views; {suggest(ablation, VIEWS)}")
        self._whole, self._ablation = benchmark, ablation
        self._video = benchmark.protocol.get("frames") is not None
        self.config = benchmark.config
        vars(self).update(
            name=benchmark.name,
            version=benchmark.version,  # the protocol names the ablation, so that replies are never mixed
            direction=benchmark.direction,
            multi_view=benchmark.multi_view,
            headline=benchmark.headline,
            resamples=benchmark.resamples,
        )

    @property
    def max_new_tokens(self) -> int:
        return self._whole.max_new_tokens

    @property
    def protocol(self) -> Mapping[str, Any]:
        whole = self._whole.protocol
        departs = [*whole.get("deviations", ()), f"shown {VIEWS[self._ablation]}"]
        return {**whole, "ablation": self._ablation, "deviations": departs}

    @property
    def asked(self) -> Mapping[str, Any]:
        return {**self._whole.asked, "ablation": self._ablation}

    @property
    def revisions(self) -> list[str]:
        return self._whole.revisions

    @property
    def tasks(self) -> tuple[str, ...]:
        return self._whole.tasks

    @property
    def num_items(self) -> int | None:
        return self._whole.num_items

    def parse(self, reply: str, question: Question) -> str | None:
        return self._whole.parse(reply, question)

    def score(self, reply: str, question: Question) -> float:
        return self._whole.score(reply, question)

    def grade(self, reply: str, item: Item) -> Graded:
        return self._whole.grade(reply, item)

    def aggregates(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return self._whole.aggregates(rows)

    def items(self) -> Iterator[Item]:
        before: tuple[Views, bool] | None = None
        after: Views | None = None
        dialogue, shown = None, False
        for item in self._whole.items():
            if item.dialogue != dialogue:
                dialogue, shown = item.dialogue, False
            keeps = dialogue is None or not shown
            shown = shown or item.clip.num_views > 0
            # Items about one clip go on sharing one object.
            if after is None or before is None or before[0] is not item.clip or before[1] != keeps:
                before, after = (item.clip, keeps), self._clip(item.clip, keeps)
            text = self._text(item.question.text, keeps)
            yield replace(item, clip=after, question=replace(item.question, text=text))

    def _clip(self, clip: Views, keeps: bool) -> Views:
        change = self._change(keeps)
        if self._ablation == "single_frame" and not keeps:
            # Views are found by their clip's id, which the turn that shows one may have too.
            clip = replace(clip, clip_id=f"{clip.clip_id}, not shown")
        if isinstance(clip, MultiViewClip):
            return change(clip)
        if self._drops_all(keeps):
            return change(MultiViewClip(clip.clip_id, clip.source_id, (), ()))
        count = min(clip.num_views, 1) if self._ablation == "single_frame" else clip.num_views
        return replace(clip, num_views=count, load=partial(_changed, clip.load, change))

    def _drops_all(self, keeps: bool) -> bool:
        return self._ablation == "blind" or (self._ablation == "single_frame" and not keeps)

    def _change(self, keeps: bool) -> Callable[[MultiViewClip], MultiViewClip]:
        if self._drops_all(keeps):
            return partial(with_views, places=())
        if self._ablation == "single_frame":
            return partial(_one_view, video=self._video)
        return _shuffled

    def _text(self, text: str, keeps: bool) -> str:
        if self._drops_all(keeps):
            return without_marks(text)
        if self._ablation == "single_frame":
            return without_marks(text, kept_view(text.count(IMAGE_MARK), video=self._video))
        return text


def _changed(
    load: Callable[[], MultiViewClip], change: Callable[[MultiViewClip], MultiViewClip]
) -> MultiViewClip:
    return change(load())


def _one_view(clip: MultiViewClip, video: bool) -> MultiViewClip:
    if not clip.num_views:
        return clip
    return with_views(clip, (kept_view(clip.num_views, video=video),))


def _shuffled(clip: MultiViewClip) -> MultiViewClip:
    return with_views(clip, another_order(clip.clip_id, clip.num_views))
