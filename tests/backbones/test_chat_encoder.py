"""Token layout and labels of encoded clips."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialprior.backbones.chat_encoder import ChatEncoder
from spatialprior.core.batch import IGNORE
from spatialprior.testing import plane_clip, tiny_backbone

SIDES = st.sampled_from([64, 72, 96, 128])
BACKBONE = tiny_backbone().eval()
ENCODER: ChatEncoder = BACKBONE.encoder()


@settings(max_examples=15, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), SIDES, SIDES), min_size=1, max_size=3),
    num_questions=st.integers(0, 3),
    prompts=st.booleans(),
)
def test_token_map_round_trip(shapes, num_questions, prompts):
    questions = [("Is it red?", "yes")] * (1 if prompts else num_questions)
    clips = [
        plane_clip(f"c{i}", num_views=v, size=(h, w), questions=questions)
        for i, (v, h, w) in enumerate(shapes)
    ]
    batch = ENCODER.prompts(clips) if prompts else ENCODER(clips)
    layout, ids = batch.token_map, batch.inputs["input_ids"]
    patch = 8 * ENCODER.merge
    for b, (views, height, width) in enumerate(shapes):
        visual = (ids[b] == ENCODER.image_id).nonzero().squeeze(1).tolist()
        walked = []
        for v in range(views):
            rows, cols = layout.grid[b, v].tolist()
            assert layout.box[b, v].tolist() == [0, 0, width, height]
            if height * width <= 128 * 128:  # not scaled down: a token is a patch
                assert (rows, cols) == (height // patch, width // patch)
            for row in range(rows):
                for col in range(cols):
                    at = layout.sequence_index(b, v, row, col)
                    assert layout.locate(b, at) == (v, row, col)
                    walked.append(at)
                    x0, y0, x1, y1 = layout.pixel_box(b, v, row, col)
                    center = layout.centers()[b, v, row * cols + col].tolist()
                    assert center == pytest.approx([(x0 + x1) / 2, (y0 + y1) / 2])
            assert layout.pixel_box(b, v, rows - 1, cols - 1)[2:] == pytest.approx((width, height))
        assert walked == visual
        assert int(layout.valid[b].sum()) == len(visual)
        assert layout.locate(b, ids.shape[1] - 1) is None or ids[b, -1] == ENCODER.image_id
        with pytest.raises(IndexError):
            layout.sequence_index(b, 0, int(layout.grid[b, 0, 0]), 0)


def test_gather_and_patch_units_agree_with_the_layout():
    clips = [
        plane_clip("a", num_views=1, size=(64, 96)),
        plane_clip("b", num_views=3, size=(72, 64)),
    ]
    layout = ENCODER(clips).token_map
    length = int(layout.index.max()) + 5
    sequence = torch.arange(2 * length * 2.0).reshape(2, length, 2)
    tokens = layout.gather(sequence)
    assert torch.equal(tokens[1, 2, 13], sequence[1, layout.sequence_index(1, 2, 1, 5)])
    assert not tokens[~layout.valid].any()
    clip, view = torch.tensor([0, 1]), torch.tensor([0, 2])
    units = layout.to_patch_units(clip, view, layout.centers()[clip, view])
    assert units[0, 12 + 3].tolist() == [3.5, 1.5]  # 12 columns
    assert units[1, 2 * 8 + 7].tolist() == [7.5, 2.5]  # 8 columns


@pytest.mark.parametrize(("view", "row", "col"), [(0, 0, 0), (1, 5, 2), (1, 7, 11), (2, 3, 9)])
def test_a_bright_square_moves_the_token_that_the_map_names(view, row, col):
    """The map against the vision tower itself, in a batch of unlike clips."""
    other = plane_clip("other", num_views=2, size=(72, 64))
    clip = plane_clip("marked", num_views=3, size=(64, 96))
    marked_images = clip.images.clone()
    x0, y0, x1, y1 = map(int, ENCODER([clip]).token_map.pixel_box(0, view, row, col))
    marked_images[view, :, y0:y1, x0:x1] = 255
    marked = dataclasses.replace(clip, images=marked_images)

    def embeddings(third):
        batch = ENCODER([other, third])
        seen = {}
        hook = BACKBONE.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
        )
        with torch.no_grad():
            BACKBONE(batch)
        hook.remove()
        return batch.token_map, seen["inputs_embeds"]

    layout, plain = embeddings(clip)
    _, changed = embeddings(marked)
    moved = (changed - plain).norm(dim=-1)
    assert not moved[0].any()
    assert layout.locate(1, int(moved[1].argmax())) == (view, row, col)


def test_labels_cover_the_answers_and_nothing_else():
    questions = (
        ("How many chairs?", "2"),
        ("Is it left of the lamp?", "yes"),
        ("Which room?", "a big room"),
    )
    batch = ENCODER(
        [plane_clip("a", questions=questions), plane_clip("b", questions=questions[:1])]
    )
    tokenizer = ENCODER.tokenizer
    for b, expected in enumerate((questions, questions[:1])):
        scored = batch.labels[b] != IGNORE
        assert torch.equal(batch.labels[b][scored], batch.inputs["input_ids"][b][scored])
        replies = tokenizer.decode(batch.labels[b][scored]).split("<|im_end|>")
        assert replies == [answer for _, answer in expected] + [""]
        for k, (text, answer) in enumerate(expected, start=1):
            own = batch.branches[b] == k
            unscored = tokenizer.decode(batch.inputs["input_ids"][b][own & ~scored])
            assert text in unscored and unscored.rstrip().endswith("assistant")
            assert tokenizer.decode(batch.labels[b][own & scored]) == f"{answer}<|im_end|>"
        assert not scored[batch.branches[b] <= 0].any()
    assert not scored[batch.inputs["attention_mask"][1] == 0].any()


def test_the_sequence_is_the_processors_own():
    """Ids equal what the stock processor makes of the same conversation."""
    clip = plane_clip("a", num_views=2, questions=[("Is the lamp far?", "yes")])
    batch = ENCODER([clip])
    processor = BACKBONE.processor
    content = [{"type": "image"}] * 2 + [{"type": "text", "text": "Is the lamp far?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    stock = processor(text=[text + "yes<|im_end|>"], images=list(clip.images), return_tensors="pt")
    for name, tensor in batch.inputs.items():
        assert torch.equal(tensor, stock[name].to(tensor.dtype)), name
    prompt = ENCODER.prompts([clip]).inputs["input_ids"]
    assert torch.equal(prompt, stock["input_ids"][:, : prompt.shape[1]])


@pytest.mark.parametrize("pair", [("Is <|image_pad|> red?", "yes"), ("Red?", "<|image_pad|>")])
def test_a_question_that_spells_an_image_token_is_refused(pair):
    clip = plane_clip("c", questions=[pair])
    with pytest.raises(ValueError, match="clip c: the question"):
        ENCODER([clip])


def test_a_clip_without_questions_is_its_images_alone():
    batch = ENCODER([plane_clip("a", questions=())])
    assert not batch.has_labels and batch.branches is None
    assert ENCODER.tokenizer.decode(batch.inputs["input_ids"][0]).endswith("<|vision_end|>")
