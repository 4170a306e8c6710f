"""Questions that fail, memory that runs out, and conversations with the model's own replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_material import Album, Quick, score

from spatialprior.backbones.branches import ContextLengthError
from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
from spatialprior.core.clip import IMAGE_MARK, MultiViewClip, Question
from spatialprior.eval.answering import Generation, answer
from spatialprior.eval.batches import Batch, batches
from spatialprior.eval.benchmark import Item
from spatialprior.eval.evaluator import EvalResult, Workers, evaluate
from spatialprior.eval.failures import EvaluationError
from spatialprior.eval.media_cache import MediaCache


def errors(result: EvalResult) -> dict[str, str]:
    return {row["id"]: row["error"] for row in result.replies if "error" in row}


def test_only_the_culprit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ContextLengthError("too\nlong")
    model = Quick(["2-1", "4-m", "talk1-1"], error)
    album = Album(broken=(3,))
    result = score(album, tmp_path / "out", model, monkeypatch)
    long, broken = "ContextLengthError: too long", "OSError: clip3x2.png is broken"
    assert errors(result) == {
        **dict.fromkeys(["2-1", "4-m", "talk1-1"], long),
        **dict.fromkeys(["3-0", "3-1", "3-2"], broken),
        "3-m": broken.replace("x2", "x1"),
    }
    assert [row["id"] for row in result.replies] == [item.item_id for item in album.items()]
    assert result.errors == 7 and result.n == len(result.replies) == 29
    for row in result.replies:
        if "error" in row:
            assert (row["reply"], row["score"], row["correct"], row["parsed"]) == (
                "",
                0.0,
                False,
                None,
            )
    assert sum(task.score.n for task in result.tasks.values()) == 29  # none was dropped
    good = score(Album(), tmp_path / "good", Quick(), monkeypatch)
    same = {row["id"]: row["reply"] for row in good.replies}
    # But for the turn behind the one that failed, which is asked as if that had not been.
    assert {r["id"] for r in result.replies if r["reply"] != same[r["id"]]} == {
        *errors(result),
        "talk1-2",
    }
    # Tried again when scoring goes on, with their batches.
    mended = score(Album(), tmp_path / "out", Quick(), monkeypatch)
    assert mended.errors == 0 and mended.replies == good.replies


def test_out_of_memory_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = score(Album(batch=12), tmp_path / "good", Quick(), monkeypatch)
    model = Quick()
    model.most = 2
    result = score(Album(batch=12), tmp_path / "out", model, monkeypatch)
    assert result.replies == good.replies
    sizes = [len(call) for call in model.calls]
    assert sizes[:4] == [12, 6, 3, 1] and max(sizes) == 12
    model = Quick()
    model.most = 0
    with pytest.raises(EvaluationError, match=r"all 29 questions failed; .*CUDA out of memory"):
        score(Album(), tmp_path / "none", model, monkeypatch)


def test_a_lost_device_ends_the_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError, match="device-side assert"):
        score(Album(), tmp_path / "out", Quick(["3-1"], lost), monkeypatch)
    assert '"error"' not in (tmp_path / "out" / "replies.jsonl").read_text()


def test_a_benchmark_that_always_fails_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    album = Album(clips=40, broken=tuple(range(40)))
    with pytest.raises(EvaluationError, match=r"first 8 clips failed; the first, 4-0: OSError: "):
        score(album, tmp_path / "out", Quick(), monkeypatch)
    assert len(album.read) < 20
    # One broken clip with many questions is no reason to stop.
    result = score(
        Album(clips=2, questions=30, broken=(0,)), tmp_path / "one", Quick(), monkeypatch
    )
    assert result.errors == 31


def test_errors_of_the_benchmark_itself_are_not_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Twice(Album):
        def items(self) -> Any:
            yield from super().items()
            yield next(super().items())

    with pytest.raises(EvaluationError, match="two items of the benchmark have the id '0-0'"):
        score(Twice(), tmp_path / "out", Quick(), monkeypatch)

    class Odd(Album):
        def items(self) -> Any:
            for item in super().items():
                yield Item(item.item_id, item.clip, item.question, {"tensor": torch.zeros(1)})

    with pytest.raises(ValueError, match="record of item 0-0 must be of plain JSON values"):
        score(Odd(), tmp_path / "odd", Quick(), monkeypatch)
    with pytest.raises(ValueError, match="worker 2 of 2"):
        Workers(2, 2)


# --- with a model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone(nano_folder: Path) -> Qwen2_5VL:
    return Qwen2_5VL.load(Qwen2_5VL.Config(path=str(nano_folder))).eval()


def picture(name: str, num_views: int, seed: int) -> MultiViewClip:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_views, 3, 64, 64), generator=generator).to(torch.uint8)
    return MultiViewClip(name, "scene", images, tuple(range(num_views)))


def talk(texts: list[str], views: list[int]) -> Batch:
    items = [
        Item(f"t-{k}", picture(f"v{k}", n, k), Question("t", text, "?"), dialogue="t")
        for k, (text, n) in enumerate(zip(texts, views, strict=True))
    ]
    (batch,) = batches(items, 4, "packed")
    return batch


@torch.no_grad()
def by_hand(
    backbone: Qwen2_5VL, said: list[list[Any]], replies: list[str], images: list[Any]
) -> str:
    """The next reply of a conversation as a user of transformers would have it."""
    messages = []
    for k, content in enumerate(said):
        messages.append({"role": "user", "content": content})
        if k < len(replies):
            reply = [{"type": "text", "text": replies[k]}]
            messages.append({"role": "assistant", "content": reply})
    processor = backbone.processor
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=images, return_tensors="pt")
    tokens = backbone.hf.generate(
        **inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=4
    )
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    ("texts", "views"),
    [
        (["same?", "color?", "count objects?"], [2, 0, 0]),
        (["same?", "color?", "count objects?"], [1, 2, 1]),
        ([f"is {IMAGE_MARK} red?", "color?", f"{IMAGE_MARK} or {IMAGE_MARK} ?"], [1, 1, 2]),
    ],
)
def test_a_turn_is_asked_behind_the_replies_before_it(
    backbone: Qwen2_5VL, texts: list[str], views: list[int]
) -> None:
    batch = talk(texts, views)
    seen: list[str] = []
    generate = Generation(backbone, 4)

    def spied(prompts: Any, packed: bool) -> list[str]:
        ids = generate.encoder.prompts([p.clip for p in prompts]).inputs["input_ids"]
        seen.append(backbone.processor.tokenizer.decode(ids[0]))
        return generate(prompts, packed)

    loaded = MediaCache(0).load(batch.items)
    found = [reply for _, reply in answer(spied, batch, loaded, {})]
    assert not any(reply.error for reply in found), found
    replies = [reply.text for reply in found]
    assert replies[0] and replies[0] in seen[1] and replies[0] not in seen[0]
    said, images = [], []
    for k, (text, count) in enumerate(zip(texts, views, strict=True)):
        first, *others = text.split(IMAGE_MARK)
        content = [{"type": "text", "text": first}] if first else []
        for piece in others:
            content += [{"type": "image"}, {"type": "text", "text": piece}]
        said.append(content if others else [{"type": "image"}] * count + content)
        images += list(picture(f"v{k}", count, k).images)
        assert replies[k] == by_hand(backbone, said, replies[:k], images)
    # What is known of the first turns is taken, not asked again.
    known = {f"t-{k}": found[k] for k in range(2)}
    seen.clear()
    assert [reply for _, reply in answer(spied, batch, loaded, known)] == found[2:]
    assert len(seen) == 1


def test_both_engines_give_the_same_replies(exported: Path, tmp_path: Path) -> None:
    """Also where some questions say where their views stand, and with conversations."""
    results = {}
    for engine in ("packed", "generate"):
        results[engine] = evaluate(
            exported,
            Album(engine=engine, max_new_tokens=4, broken=(2,)),
            backbone=Qwen2_5VL,
            settings=Qwen2_5VL.Config(),
            out=tmp_path / engine,
        )
    packed, plain = (results[engine].replies for engine in ("packed", "generate"))
    assert packed == plain and len({row["reply"] for row in packed}) > 8
    assert sum("error" in row for row in packed) == 4


def test_a_prompt_beyond_the_context_is_an_error(
    backbone: Qwen2_5VL, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item(str(n), picture(str(n), n, n), Question("t", "same?", "yes")) for n in (1, 8, 2)]
    monkeypatch.setattr(backbone.hf.config.get_text_config(), "max_position_embeddings", 200)
    for engine in ("packed", "generate"):
        found = {}
        for batch in batches(items, 4, engine):
            views = MediaCache(0).load(batch.items)
            found |= {i.item_id: r for i, r in answer(Generation(backbone, 2), batch, views, {})}
        assert str(found["8"].error).startswith("ContextLengthError: clip 8 has ")
        assert found["1"].error is None and found["2"].error is None


def test_no_reply_is_lost_to_a_smaller_or_another_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    whole = score(Album(talks=0), out, Quick(), monkeypatch)
    # Fewer questions, under the same identity.
    model = Quick()
    few = score(Album(talks=0, clips=2), out, model, monkeypatch)
    assert not model.calls and few.n == 8 and few.replies == whole.replies[:8]
    # Another setting, and back.
    other = Quick()
    score(Album(talks=0, max_new_tokens=3), out, other, monkeypatch)
    assert other.calls
    again = Quick()
    assert score(Album(talks=0), out, again, monkeypatch).replies == whole.replies
    assert not again.calls


def test_the_same_words_about_another_clip_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(Album(talks=0), tmp_path / "out", Quick(), monkeypatch)
    moved = Album(talks=0)
    monkeypatch.setattr(
        moved, "item", lambda name, c, *more, **kw: Album.item(moved, name, c + 50, *more, **kw)
    )
    model = Quick()
    result = score(moved, tmp_path / "out", model, monkeypatch)
    assert sum(map(len, model.calls)) == result.n == 24


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"id": "0-1"}', "null"])
def test_a_broken_line_among_replies_is_named(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(Album(talks=0), tmp_path / "out", Quick(), monkeypatch)
    file = tmp_path / "out" / "replies.jsonl"
    lines = file.read_text().splitlines()
    lines[2] = line
    file.write_text("".join(f"{each}\n" for each in lines))
    with pytest.raises(EvaluationError, match=r"replies\.jsonl, line 3, is no reply"):
        score(Album(talks=0), tmp_path / "out", Quick(), monkeypatch)
    assert file.read_text().splitlines() == lines
