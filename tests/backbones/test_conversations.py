"""Conversations of every family: token ids are the stock template's, labels are the answers."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

from spatialprior.core.batch import IGNORE
from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.registry import BACKBONES
from spatialprior.testing import plane_clip, tiny_backbone

KINDS = BACKBONES.names()
ENCODERS = {kind: tiny_backbone(kind=kind, frames="images").encoder() for kind in KINDS}
VIEWS = tuple(
    plane_clip("v", num_views=1, size=size).images[0] for size in ((64, 96), (72, 64), (64, 64))
)


def talk(*turns: tuple[str, str], views: int = 0, dialogue: bool = False) -> MultiViewClip:
    questions = tuple(Question("test", text, answer) for text, answer in turns)
    return MultiViewClip(
        "talk", "talk", VIEWS[:views], tuple(range(views)), questions=questions, dialogue=dialogue
    )


SINGLE = talk(("Is the lamp far?", "yes"), views=2)
TEXT = talk(("What has four legs?", "A table, or a horse: häuser 東"))
DIALOGUE = talk(
    ("How many chairs?", "two"),
    ("And lamps?", "one red lamp"),
    ("Left?", "no"),
    views=2,
    dialogue=True,
)
TEXT_DIALOGUE = talk(("Hello?", "Hello. How are you?"), ("Well.", "Good!"), dialogue=True)
INTERLEAVED = talk(
    (f"In {IMAGE_MARK} the lamp is lit. Is it in {IMAGE_MARK} too?", "no, it is off"), views=2
)
LATER = talk(
    (f"{IMAGE_MARK}What is this?", "a sofa"),
    ("Its colour?", "red"),
    (f"And here?\n{IMAGE_MARK}", "a bed"),
    views=2,
    dialogue=True,
)
CLIPS = {
    "single": SINGLE,
    "text": TEXT,
    "dialogue": DIALOGUE,
    "text_dialogue": TEXT_DIALOGUE,
    "interleaved": INTERLEAVED,
    "later": LATER,
}


def messages(clip: MultiViewClip):
    """The conversation as a user of transformers would write it, up to the last question."""
    views = iter(clip.images)

    def image():
        return {"type": "image", "image": Image.fromarray(next(views).permute(1, 2, 0).numpy())}

    marked = any(IMAGE_MARK in q.text for q in clip.questions)
    said = []
    for k, question in enumerate(clip.questions):
        content = [] if marked or k else [image() for _ in clip.images]
        first, *others = question.text.split(IMAGE_MARK)
        content += [{"type": "text", "text": first}] if first else []
        for piece in others:
            content.append(image())
            content += [{"type": "text", "text": piece}] if piece else []
        said.append({"role": "user", "content": content})
        if k + 1 < len(clip.questions):
            reply = [{"type": "text", "text": question.answer}]
            said.append({"role": "assistant", "content": reply})
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLIPS)
def test_prompts_are_the_stock_templates(kind, name):
    encoder, clip = ENCODERS[kind], CLIPS[name]
    stock = encoder.processor.apply_chat_template(
        messages(clip),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ours = encoder.prompts([clip]).inputs
    assert ours["input_ids"].tolist() == stock["input_ids"].tolist()
    assert ours.keys() == stock.keys()
    for key, value in ours.items():
        assert value.shape == stock[key].shape, key
    assert len(clip.images) == 0 or ours["pixel_values"].abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLIPS)
def test_labels_are_the_answers_with_their_end(kind, name):
    encoder, clip = ENCODERS[kind], CLIPS[name]
    batch = encoder([clip, SINGLE, DIALOGUE])
    tokenizer = encoder.tokenizer
    for b, one in enumerate(batch.clips):
        ids, labels = batch.inputs["input_ids"][b], batch.labels[b]
        scored = labels != IGNORE
        assert torch.equal(labels[scored], ids[scored])
        replies = tokenizer.decode(labels[scored]).split(tokenizer.eos_token)
        assert [reply.strip() for reply in replies] == [q.answer for q in one.questions] + [""]
        assert scored.sum() == sum(
            len(tokenizer(encoder.template.lead + q.answer, add_special_tokens=False)["input_ids"])
            + 1
            for q in one.questions
        )
        # What stands unscored before the first answer is the prompt that a reply would be asked with.
        start = int(scored.nonzero()[0])
        first = encoder.prompts([MultiViewClip(**_first_turn(one))]).inputs["input_ids"][0]
        visible = [i for i in ids[:start].tolist() if i != encoder.image_id]
        assert visible == [i for i in first.tolist() if i != encoder.image_id]


def _first_turn(clip: MultiViewClip):
    marks = clip.questions[0].text.count(IMAGE_MARK)
    views = marks if any(IMAGE_MARK in q.text for q in clip.questions) else len(clip.images)
    return {
        "clip_id": "first",
        "source_id": "first",
        "images": clip.images[:views],
        "frame_ids": clip.frame_ids[:views],
        "questions": clip.questions[:1],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_dialogue_is_the_stock_conversation_where_the_template_ends_its_turns(kind):
    encoder = ENCODERS[kind]
    row = encoder([DIALOGUE])
    ids = row.inputs["input_ids"][0].tolist()
    prompt = encoder.prompts([DIALOGUE]).inputs["input_ids"][0].tolist()
    scored = (row.labels[0] != IGNORE).tolist()
    last = max(i for i, on in enumerate(scored) if not on) + 1
    if kind.startswith("qwen"):
        assert ids[:last] == prompt
    else:  # an end token more a turn, or a blank less: the answers themselves are unchanged
        decode = encoder.tokenizer.decode
        words = decode(prompt, skip_special_tokens=True).split()
        assert decode(ids[:last], skip_special_tokens=True).split() == words
    assert row.branches is None


def test_the_system_turn_comes_from_the_template():
    with_system = ENCODERS["qwen2_vl"]
    without = ENCODERS["qwen3_vl"]
    text = with_system.tokenizer.decode(with_system([TEXT]).inputs["input_ids"][0])
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user"
    )
    assert text.count("system") == 1
    assert "system" not in without.tokenizer.decode(without([TEXT]).inputs["input_ids"][0])


def test_what_stands_between_prompt_and_answer_is_the_templates():
    leads = {kind: encoder.template.lead for kind, encoder in ENCODERS.items()}
    assert leads == {kind: " " if kind == "llava_next_video" else "" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_token_comes_once(kind):
    encoder = ENCODERS[kind]
    start = encoder.tokenizer.bos_token_id
    for clip in CLIPS.values():
        ids = encoder([clip]).inputs["input_ids"][0].tolist()
        assert ids.count(start) == (0 if start is None else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_all_sorts_of_clips_in_one_batch(kind):
    backbone = tiny_backbone(kind=kind, frames="video").eval()
    encoder = backbone.encoder()
    packed = plane_clip("p", num_views=4, questions=(("One?", "1"), ("Two?", "2")))
    few = ("text", "text_dialogue", "later")  # an image of this family is thousands of tokens
    names = few if kind == "llava_next_video" else CLIPS
    batch = encoder([*(CLIPS[name] for name in names), packed])
    assert {"pixel_values", "pixel_values_videos"} < batch.inputs.keys()
    assert batch.branches is not None
    with torch.no_grad():
        together = backbone(batch).hidden
        for b, clip in enumerate(batch.clips[:-1]):
            alone = encoder([clip])
            wanted = backbone(alone).hidden[0]
            found = together[b][: len(wanted)]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, msg=str(b))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (
            talk((f"{IMAGE_MARK}?", "x"), views=2),
            "clip talk: 1 image marks in its questions for 2 views",
        ),
        (
            talk((f"{IMAGE_MARK}?", "x"), (f"{IMAGE_MARK}!", "y"), views=2),
            "clip talk: independent questions cannot say where the views stand",
        ),
    ],
)
def test_marks_that_do_not_fit_are_refused(clip, message):
    with pytest.raises(ValueError, match=message):
        ENCODERS["qwen3_vl"]([clip])


def test_what_a_prompt_cannot_be():
    encoder = ENCODERS["qwen3_vl"]
    with pytest.raises(ValueError, match="clip talk has 2 questions; a prompt takes one"):
        encoder.prompts([talk(("a", "b"), ("c", "d"))])
    with pytest.raises(ValueError, match="clip talk has 0 questions"):
        encoder.prompts([talk(dialogue=True)])
    with pytest.raises(ValueError, match=r"clip talk is a dialogue.*eval.engine=generate"):
        encoder.packed_prompts([DIALOGUE])
    with pytest.raises(ValueError, match="contains <image>"):
        ENCODERS["llava_onevision"]([talk(("Is <image> red?", "no"))])
    with pytest.raises(ValueError, match=r"contains <\|video_pad\|>"):
        encoder([talk(("Is it?", "<|video_pad|>"))])


def test_a_template_without_videos_is_told():
    backbone = tiny_backbone(kind="llava_next_video", frames="video")
    processor = copy.copy(backbone.processor)
    processor.chat_template = processor.chat_template.replace("('image', 'video')", "('image',)")
    backbone = type(backbone)(backbone.hf, processor, backbone.settings)
    with pytest.raises(
        ValueError, match=r"clip plane: the chat template wrote 0 of its 1 .* video"
    ):
        backbone.encoder()([plane_clip(num_views=2)])
