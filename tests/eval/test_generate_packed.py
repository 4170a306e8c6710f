"""Packed greedy replies are those of plain generation, one question at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.clip import MultiViewClip, Question
from spatialprior.eval.generate_packed import generate_packed

TOKENS = 5


@pytest.fixture(scope="module")
def backbone(nano_folder: Path) -> Qwen2_5VL:
    return Qwen2_5VL.load(Qwen2_5VL.Config(path=str(nano_folder))).eval()


def clips() -> list[MultiViewClip]:
    """Of different numbers of views and questions, so that rows and branches are padded."""
    generator = torch.Generator().manual_seed(0)

    def views(n: int, size: int) -> torch.Tensor:
        return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)

    texts = (
        "image 1 cell a b color?",
        "image 2 red left or right of blue?",
        "all images count objects?",
        "same?",
    )
    asked = tuple(Question("t", text, "yes") for text in texts)
    return [
        MultiViewClip("a", "a", views(2, 64), (0, 1), questions=asked),
        MultiViewClip("b", "b", views(3, 128), (0, 1, 2), questions=asked[1:3]),
    ]


def one_by_one(backbone: Qwen2_5VL) -> list[list[str]]:
    encoder = backbone.encoder()

    def reply(clip: MultiViewClip, question: Question) -> str:
        prompt = encoder.prompts([clip.with_questions((question,))])
        return encoder.decode(backbone.generate(prompt, TOKENS))[0]

    return [[reply(clip, question) for question in clip.questions] for clip in clips()]


def test_same_replies_as_one_question_at_a_time(backbone: Qwen2_5VL) -> None:
    expected = one_by_one(backbone)
    assert generate_packed(backbone, clips(), TOKENS) == expected
    # The test can fail: replies differ between questions and between clips.
    assert len({reply for replies in expected for reply in replies}) >= 4
    assert all(replies for replies in expected)


def test_text_behind_a_long_video_goes_on_where_the_stock_model_lets_it() -> None:
    """There the largest position is a moment's, beyond that of the text that follows."""
    backbone = Qwen2_5VL.load(Qwen2_5VL.Config(frames="video")).eval()
    encoder, clip = backbone.encoder(), clips()[0]
    long = MultiViewClip("v", "v", clip.images.repeat(8, 1, 1, 1), tuple(range(16)))
    one = long.with_questions(clip.questions[:1])
    packed = backbone.position_ids(encoder.packed_prompts([one]))
    alone = backbone.position_ids(encoder.prompts([one]))
    assert torch.equal(packed, alone)
    assert int(alone.max()) > int(alone[..., -1].max())
    two = encoder.packed_prompts([long.with_questions(clip.questions[:2])])
    starts = backbone.position_ids(two)[0, 0][
        [int((two.branches[0] == k).long().argmax()) for k in (1, 2)]
    ]
    assert starts[0] == starts[1]


def test_a_stop_token_ends_one_branch_and_not_the_others(
    backbone: Qwen2_5VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = backbone.encoder()
    clip = clips()[0]
    prompt = encoder.prompts([clip.with_questions(clip.questions[:1])])
    stop = int(backbone.generate(prompt, TOKENS)[0, 1])  # what the first question says second
    monkeypatch.setattr(backbone.hf.generation_config, "eos_token_id", stop)
    expected = one_by_one(backbone)
    lengths = {len(encoder.tokenizer.tokenize(reply)) for replies in expected for reply in replies}
    assert len(lengths) > 1
    assert generate_packed(backbone, clips(), TOKENS, stop_ids=(stop,)) == expected


def test_packing_does_not_change_the_model(backbone: Qwen2_5VL) -> None:
    batch = backbone.encoder()(clips()[:1])
    with torch.no_grad():
        before = backbone(batch).hidden
        generate_packed(backbone, clips(), 2)
        assert torch.equal(backbone(batch).hidden, before)


def test_a_clip_without_questions_is_named(backbone: Qwen2_5VL) -> None:
    with pytest.raises(ValueError, match="clip a has no question"):
        generate_packed(backbone, [clips()[0].with_questions(())], 1)
