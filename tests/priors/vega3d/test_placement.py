"""Features land on their own tokens, however clips are padded, packed and put together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from colours import model, nudge

from spatialprior.core.batch import ClipBatch
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.eval.generate_packed import generate_packed
from spatialprior.model import SpatialModel
from spatialprior.testing import plane_clip

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")
FUSIONS = ("token_gate", "cross_attention", "sequence_concat")
TOKENS = 4

pytestmark = [
    pytest.mark.usefixtures("colours"),
    pytest.mark.parametrize("family", FAMILIES),
    pytest.mark.parametrize("kind", FUSIONS),
]


@functools.cache
def nudged(family: str, kind: str) -> SpatialModel:
    whole = model(family, fusion={"kind": kind}, cache_gb=0).eval()
    # Far enough from the start that a feature on another row shows.
    for _ in range(3):
        nudge(whole.priors)
    whole.serve()
    return whole


def clips() -> list[MultiViewClip]:
    """Unlike numbers and sizes of views, and of questions and their words."""
    texts = (
        "Is it far?",
        "image 1 cell a b color?",
        "all images: is the red object left or right of the blue one?",
    )
    asked = tuple(Question("t", text, answer) for text, answer in zip(texts, "aba", strict=True))
    return [
        plane_clip("a", num_views=2, size=(32, 32)).with_questions(asked[:2]),
        plane_clip("b", num_views=3, size=(24, 48)).with_questions(asked),
        plane_clip("c", num_views=2, size=(48, 32)).with_questions(asked[2:]),
    ]


def single() -> list[MultiViewClip]:
    """Each with its last question alone."""
    return [clip.with_questions(clip.questions[-1:]) for clip in clips()]


def encoded(whole: SpatialModel, mode: str, chosen: Sequence[MultiViewClip]) -> ClipBatch:
    encoder: Any = whole.backbone.encoder()
    made = {
        "left": encoder.prompts,
        "right": encoder,
        "packed": encoder,
        "prompts": encoder.packed_prompts,
    }
    batch: ClipBatch = made[mode](chosen)
    return batch


MODES = {"left": single, "right": single, "packed": clips, "prompts": clips}


def rows_of(whole: SpatialModel, batch: ClipBatch) -> list[tuple[int, int, int, int, int, int]]:
    """``(row, clip, view, grid row, grid column, position)`` of what is edited, counted along the sequences."""
    target = batch.echo if whole.backbone.echo_views else batch.token_map
    assert target is not None
    row, found = 0, []
    for b, visual in enumerate(batch.visual.tolist()):
        for position, is_visual in enumerate(visual):
            place = target.locate(b, position)
            if place is not None:
                inside = on_the_frame(batch.token_map.pixel_box(b, *place), batch.clips[b])
                found += [(row, b, *place, position)] if inside else []
            row += is_visual
    return found


def on_the_frame(box: tuple[float, ...], clip: MultiViewClip) -> bool:
    """Whether at least half of a token's sides are the frame's: OneVision pads frames to squares."""
    height, width = clip.image_size
    shares = [
        (min(box[2 + i], side) - max(box[i], 0)) / (box[2 + i] - box[i])
        for i, side in enumerate((width, height))
    ]
    return min(shares) >= 0.5


@pytest.mark.parametrize("mode", MODES)
def test_a_clip_gives_in_a_batch_what_it_gives_alone(family: str, kind: str, mode: str) -> None:
    whole = nudged(family, kind)
    chosen = MODES[mode]()
    batch = encoded(whole, mode, chosen)
    kept = batch.inputs["attention_mask"].bool()
    assert not kept.all(), "nothing is padded"
    with torch.no_grad():
        together = whole.backbone(batch).hidden
        for b, clip in enumerate(chosen):
            alone = encoded(whole, mode, [clip])
            wanted = whole.backbone(alone).hidden[0]
            torch.testing.assert_close(together[b, kept[b]], wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", ["left", "packed"])
def test_a_feature_reaches_its_own_token_first(family: str, kind: str, mode: str) -> None:
    """Nothing before a token changes with its feature; the token does."""
    whole = nudged(family, kind)
    batch = encoded(whole, mode, MODES[mode]())
    context = whole.injectors["vega3d"].prepare(batch)
    places = rows_of(whole, batch)
    assert context.rows.tolist() == [row for row, *_ in places]
    with torch.no_grad():
        plain = whole.backbone(batch).hidden
        for k in torch.linspace(0, len(places) - 1, 3).long().tolist():
            _, b, view, *_, position = places[k]
            features = context.features.clone()
            features[k] += 3
            changed = dataclasses.replace(context, features=features)
            found = whole.backbone(batch, edits=whole.edits({"vega3d": changed})).hidden
            moved = (found - plain).abs().amax(-1) > 1e-4
            assert not moved[[i for i in range(len(moved)) if i != b]].any(), "another clip"
            if kind == "cross_attention":  # a view sees all of its own features
                position = min(p for _, i, v, *_, p in places if (i, v) == (b, view))
            assert moved[b].nonzero()[0].item() == position, places[k]


def unedited(whole: SpatialModel, answer: Callable[[], Any]) -> Any:
    """What is answered without the features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole.backbone, "editor", None)
        return answer()


def test_replies_are_those_of_the_clip_alone(family: str, kind: str) -> None:
    whole = nudged(family, kind)
    encoder: Any = whole.backbone.encoder()

    def replies(chosen: Sequence[MultiViewClip]) -> list[str]:
        return encoder.decode(whole.backbone.generate(encoder.prompts(chosen), TOKENS))

    together = replies(single())
    assert together == [replies([clip])[0] for clip in single()]
    assert together != unedited(whole, lambda: replies(single())), "features change no reply"


def test_a_branch_gives_what_its_question_gives_alone(family: str, kind: str) -> None:
    whole = nudged(family, kind)
    batch = encoded(whole, "prompts", clips())
    assert batch.branches is not None
    with torch.no_grad():
        packed = whole.backbone(batch).hidden
        for b, clip in enumerate(clips()):
            for k, question in enumerate(clip.questions, start=1):
                alone = encoded(whole, "left", [clip.with_questions((question,))])
                last = int((batch.branches[b] == k).nonzero().max())
                wanted = whole.backbone(alone).hidden[0, -1]
                torch.testing.assert_close(packed[b, last], wanted, rtol=1e-4, atol=2e-5)


def test_packed_replies_are_those_of_one_question_at_a_time(family: str, kind: str) -> None:
    whole = nudged(family, kind)
    encoder: Any = whole.backbone.encoder()
    reply = functools.partial(whole.backbone.generate, max_new_tokens=TOKENS)
    expected = [
        [
            encoder.decode(reply(encoder.prompts([clip.with_questions((q,))])))[0]
            for q in clip.questions
        ]
        for clip in clips()
    ]
    packed = functools.partial(generate_packed, whole.backbone, clips(), TOKENS)
    assert packed() == expected
    assert unedited(whole, packed) != expected, "features change no reply"
