"""LLaVA-style JSON: what is read, what is refused and why, and how little memory it takes."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.data.bad_samples import LOG_FILE, UnusableDataError
from spatialprior.data.conversations import LlavaJson
from spatialprior.data.conversations.record import BadRecordError, parse_record
from spatialprior.data.conversations.scan import read_record, scan_records
from spatialprior.data.media import BadMediaError, MediaPathError

ALL = (1.0, 0.0, 0.0)


def talk(*texts, **record):
    speakers = ("human", "gpt") * len(texts)
    turns = [{"from": who, "value": text} for who, text in zip(speakers, texts, strict=False)]
    return {"id": "x", **record, "conversations": turns}


# --- one record ---------------------------------------------------------------------------


def test_llava_video_record():
    found = parse_record(
        talk("<image>\nWhat is it?", "A cat.", data_source="0_30_s_academic_v0_1", video="a/b.mp4")
    )
    assert [(m.kind, m.path) for m in found.media] == [("video", "a/b.mp4")]
    assert (
        found.turns[0].question == f"{IMAGE_MARK}What is it?" and found.turns[0].answer == "A cat."
    )
    assert found.task == "0_30_s_academic_v0_1"


def test_chat_form_says_the_same():
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]
    chat = {
        "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A cat."}]
    }
    assert parse_record(chat) == parse_record(talk("<image>What is it?", "A cat.", image="a.png"))
    beside = json.loads(json.dumps(chat).replace('"image": "a.png"', '"x": 0'))
    assert parse_record({**beside, "images": ["a.png"]}) == parse_record(chat)


def test_media_follow_their_placeholders():
    found = parse_record(
        talk(
            "First <image> then <video>?",
            "Yes.",
            "And <image>?",
            "No.",
            image=["1", "2"],
            video="3",
        )
    )
    assert [m.path for m in found.media] == ["1", "3", "2"]
    first = found.first_turns(1)
    assert [m.path for m in first.media] == ["1", "3"] and len(first.turns) == 1
    assert parse_record(talk("Hello?", "Hi.")).media == ()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "a list, not an object"),
        (
            {"image": "a.png", "text": ""},
            r"neither conversations nor messages \(keys: image, text\)",
        ),
        ({"conversations": "x"}, "conversations is a text, not a list"),
        ({"conversations": []}, "no turn"),
        ({"conversations": [3]}, "turn 1 is a number"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "turn 1 is of 'robot'"),
        ({"conversations": [{"from": "human", "value": 3}]}, "turn 1 holds a number, not text"),
        (talk("a"), "unanswered turn of the user"),
        (talk("a", " "), "turn 2 is empty"),
        (talk("", "b"), "turn 1 is empty"),
        (talk("a", "<image>", image="x"), "placeholder in a reply"),
        (talk("<image> a", "b"), "1 placeholders for 0 media"),
        (talk("a", "b", image="x"), "0 placeholders for 1 media"),
        (talk("<image><image>", "b", images=["x"]), "2 placeholders for 1 media"),
        (talk("<video>", "b", image="x"), "a <video> without a video"),
        (talk("<image>", "b", image=7), "a medium by a number"),
        (talk("<image>", "b", image="https://example.org/a.png"), "only files are read"),
        (talk("<image>", "b", image="x", images=["y"]), "both image and images"),
        (talk(f"a {IMAGE_MARK}", "b"), "U[+]FFFC"),
        (talk("a <|im_end|>", "b"), "control token"),
        (talk("a", "b<|vision_start|>"), "control token"),
        ({"conversations": talk("a", "b")["conversations"][::-1]}, "turn 1 is of the assistant"),
        (
            {"conversations": [{"from": "system", "value": "s"}, *talk("a", "b")["conversations"]]},
            "=drop",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "part of type 'audio'"),
    ],
)
def test_bad_records_say_why(record, reason):
    with pytest.raises(BadRecordError, match=reason):
        parse_record(record)


def test_system_turn_can_be_dropped():
    record = talk("a", "b")
    record["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    assert parse_record(record, system="drop") == parse_record(talk("a", "b"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["user", "<image>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "conversations",
                    "messages",
                    "from",
                    "value",
                    "role",
                    "content",
                    "type",
                    "image",
                    "video",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(deadline=None)
@given(JSON)
def test_any_json_is_a_conversation_or_a_reason(record):
    try:
        found = parse_record(record)
    except BadRecordError as error:
        assert str(error)
        return
    marks = sum(turn.question.count(IMAGE_MARK) for turn in found.turns)
    assert found.turns and marks == len(found.media)


# --- places in a file ---------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(JSON, max_size=6),
    st.sampled_from(["array", "indented", "lines", "bom"]),
    st.booleans(),
    st.integers(1, 40),
)
def test_scan_finds_what_json_finds(tmp_path_factory, records, form, ascii_only, window):
    path = tmp_path_factory.getbasetemp() / "scan.json"
    if form == "lines":
        text = "".join(json.dumps(r, ensure_ascii=ascii_only) + "\n\n" for r in records)
    else:
        text = json.dumps(
            records, ensure_ascii=ascii_only, indent=2 if form == "indented" else None
        )
    if form == "lines" and records and isinstance(records[0], list):
        return  # a file of lists one after another is not one of ours
    path.write_text(text, encoding="utf-8-sig" if form == "bom" else "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spatialprior.data.conversations.scan.WINDOW", window)
        found = list(scan_records(path))
    assert [value for _, _, value in found] == records
    with path.open("rb") as file:
        assert [read_record(file, start, length) for start, length, _ in found] == records


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_scan_takes_no_nonsense(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "nonsense.json"
    path.write_bytes(data)
    try:
        list(scan_records(path))
    except ValueError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1}, {"b"', "not JSON at byte 15"),
        ('[{"a": 1}', "cut off"),
        ('[{"a": 1} {"b": 2}]', "expected ','"),
        ('[{"a": 1}] 3', "something follows"),
        ('{"a": 1}\n{"a": 1,}\n', "not JSON at byte 1[78]"),
        ("[" * 100_000, "nested too deep|not JSON"),
    ],
)
def test_scan_says_where_it_breaks(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        list(scan_records(tmp_path / "a.json"))


# --- the data set -------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    def build(records, name="data.json", media=(), **config):
        for path in media:
            target = tmp_path / "media" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (len(path), 0, 0)).save(target)
        (tmp_path / "media").mkdir(exist_ok=True)
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = name.endswith("l")
        file.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
        settings = {"parts": ALL, "media_root": str(tmp_path / "media"), **config}
        path = settings.pop("path", str(file))
        return LlavaJson(LlavaJson.Config(path=path, cache_dir=str(tmp_path / "cache"), **settings))

    return build


def by_question(clips, count):
    return {clip.questions[0].text: clip for clip in map(clips.clip, range(count))}


def test_clips_of_every_sort(make, tmp_path, make_video, shown_number):
    (tmp_path / "media").mkdir()
    make_video(tmp_path / "media" / "v.mp4", length=20)
    records = [
        talk("Alone?", "Yes."),
        talk("<image>\nOne?", "Yes."),
        talk("<image>\n<image>\nTwo?", "Yes.", "More?", "No.", images=["a.png", "bb.png"]),
        talk("Left <image> or right <image>?", "Left.", images=["a.png", "c/big.png"]),
        talk("<image>\nMoves?", "Yes.", "And <image>?", "No.", image="a.png", video="v.mp4"),
    ]
    records[1]["image"] = "a.png"
    data = make(records, media=["a.png", "bb.png", "c/big.png"], frames=3, max_side=64)
    Image.new("RGB", (20, 10)).save(tmp_path / "media" / "c" / "big.png")
    clips = data.split("train", 0)
    assert len(clips) == 5 and data.has_questions and not data.has_geometry
    found = by_question(clips, 5)
    mark = IMAGE_MARK
    assert set(found) == {
        "Alone?", "One?", "Two?", f"Left {mark} or right {mark}?", f"{mark}Moves?",
    }  # fmt: skip
    assert found["Alone?"].num_views == 0 and found["Alone?"].images == ()
    assert found["One?"].images.shape == (1, 3, 6, 8) and not found["One?"].dialogue
    two = found["Two?"]
    assert two.dialogue and [q.answer for q in two.questions] == ["Yes.", "No."]
    assert [int(view[0, 0, 0]) for view in two.images] == [5, 6]
    assert found[f"Left {mark} or right {mark}?"].image_sizes == [(6, 8), (10, 20)]
    moves = found[f"{mark}Moves?"]
    assert [q.text for q in moves.questions] == [f"{mark}Moves?", f"And {mark * 3}?"]
    assert [shown_number(view) for view in moves.images[1:]] == [0, 9, 19]
    assert moves.frame_ids == (0, 1, 2, 3)
    assert len({clip.clip_id for clip in found.values()}) == 5


def test_same_clip_every_time_and_every_pass_complete(make):
    records = [talk(f"q{i}?", "a") for i in range(7)]
    first, again = (make(records, "d.jsonl").split("train", 3) for _ in range(2))
    order = [first.clip(i).questions[0].text for i in range(21)]
    assert [again.clip(i).questions[0].text for i in reversed(range(21))] == order[::-1]
    for lap in range(3):
        assert sorted(order[7 * lap : 7 * lap + 7]) == [f"q{i}?" for i in range(7)]
    assert order[:7] != order[7:14] or order[7:14] != order[14:]
    other = make(records, "d.jsonl").split("train", 4)
    assert [other.clip(i).questions[0].text for i in range(21)] != order


def test_no_medium_is_in_two_splits(make):
    rng = np.random.default_rng(0)
    records = [
        talk("<image>" * 2 + f"q{i}?", "a", images=[f"m{j}.png" for j in rng.integers(0, 400, 2)])
        for i in range(150)
    ] + [talk(f"t{i % 20}?", "a") for i in range(60)]
    data = make(records, parts=(0.5, 0.2, 0.3), media=[f"m{j}.png" for j in range(400)])
    seen = {}
    for name in ("train", "val", "test"):
        rows = data.split(name, 0)._rows.tolist()
        assert rows == data.split(name, 1)._rows.tolist()
        for row in rows:
            for key in records[row].get("images", [records[row]["conversations"][0]["value"]]):
                assert seen.setdefault(key, name) == name
    assert len(set(seen.values())) == 3
    assert sum(len(data.split(name, 0)) for name in ("train", "val", "test")) == len(records)


def test_llava_video_folder_as_downloaded(make, tmp_path, make_video):
    root = tmp_path / "LLaVA-Video-178K"
    subsets = ("0_30_s_academic_v0_1", "1_2_m_youtube_v0_1")
    for subset in subsets:
        (root / subset / "source").mkdir(parents=True)
        make_video(root / subset / "source" / f"{subset}.mp4", length=10)
        record = talk(
            "<image>\nWhat happens?", "It counts.", data_source=subset, video=f"source/{subset}.mp4"
        )
        (root / subset / f"{subset}_cap_processed.json").write_text(json.dumps([record]))
    (root / "gpt4o_qa_prompt").mkdir()
    (root / "gpt4o_qa_prompt" / "pool.json").write_text('{"What": "no record"}')
    data = make([], path=str(root), media_root=None, frames=4)
    clips = [data.split("train", 0).clip(i) for i in range(2)]
    assert {clip.questions[0].task for clip in clips} == set(subsets)
    assert all(clip.num_views == 4 and clip.questions[0].text == "What happens?" for clip in clips)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"path": "/no/such"}, "path=/no/such: no such file or folder"),
        ({"media_root": "/no/such"}, "media_root=/no/such: no such folder"),
        (
            {"media_root": None},
            "none of the 1 media looked for is there, first a.png.*set media_root",
        ),
        ({"parts": (0.0, 0.5, 0.5)}, "no record fell into the train split"),
        ({"parts": (0.9, 0.9, 0.9)}, "three shares"),
        ({"frames": 0}, "frames=0: must be positive"),
    ],
)
def test_settings_that_cannot_work_are_told(make, change, reason):
    with pytest.raises(ValueError, match=reason):
        make([talk("<image>?", "b", image="a.png")], media=["a.png"], **change).split("train", 0)


def test_file_of_something_else_is_told(make, tmp_path):
    with pytest.raises(
        ValueError, match=r"all of the 2 records .* are bad, first .*turn 2 is empty"
    ):
        make([talk("a", ""), talk("b", "")])
    with pytest.raises(
        ValueError, match=r"neither conversations nor messages \(keys: annotations\)"
    ):
        make([{"annotations": []}])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no file"):
        make([], path=str(tmp_path / "empty"))


def test_a_name_that_no_file_can_have_is_a_bad_sample(make):
    records = [talk("<image>?", "b", image="x" * 5000), talk("q?", "a")]
    clips = make(records).split("train", 0)
    assert [clips.clip(i).questions[0].text for i in range(2)] == ["q?"] * 2


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../b.png"])
def test_a_path_that_leaves_the_folder_is_refused_when_indexed(make, path):
    with pytest.raises(MediaPathError, match=r"data\.json, record at byte 1: .*media_root"):
        make([talk("<image>?", "b", image=path)])


def test_changed_file_is_indexed_anew(make):
    assert make([talk("old?", "a")]).split("train", 0).clip(0).questions[0].text == "old?"
    data = make([talk("newer?", "a"), talk("newest?", "a")])
    assert set(by_question(data.split("train", 0), 2)) == {"newer?", "newest?"}


# --- bad samples --------------------------------------------------------------------------


def broken(count, good):
    records = [talk(f"<image>q{i}?", "a", image=f"{i}.png") for i in range(count)]
    return records, [f"{i}.png" for i in range(count) if i in good]


def test_bad_samples_are_replaced_counted_and_named_once(make, caplog, tmp_path):
    records, media = broken(10, good={0, 1, 2, 5, 6, 9})
    records[1]["conversations"][1]["value"] = ""
    data = make(records, media=media)
    clips = data.split("train", 0)
    clips.keep_bad_in(tmp_path / "run")
    texts = [clips.clip(i).questions[0].text for i in range(50)]
    assert {int(text[1]) for text in texts} == {0, 2, 5, 6, 9}
    assert set(clips.bad.reasons) > {"3.png", "4.png", "7.png", "8.png"}
    assert len(clips.bad.reasons) == 5 and clips.bad.count >= 5 * 5
    named = [
        record.getMessage() for record in caplog.records if "bad sample" in record.getMessage()
    ]
    assert len(named) == 5 and "file 5 of this process" in named[-1]
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG_FILE).read_text().splitlines()]
    assert {line["path"]: line["reason"] for line in lines} == clips.bad.reasons
    # In another order, by another process, the same clips stand in.
    other = make(records, media=media).split("train", 0)
    assert [other.clip(i).questions[0].text for i in reversed(range(50))] == texts[::-1]
    good = [i for i in range(50) if clips._order[i] in (0, 2, 5, 6, 9)]
    assert [int(texts[i][1]) for i in good] == [clips._order[i] for i in good]


def test_bad_samples_can_be_fatal_and_end_in_any_case(make):
    records, media = broken(10, good={0})
    with pytest.raises(BadMediaError, match=r"\d\.png: no such file"):
        [make(records, media=media, on_bad="fail").split("train", 0).clip(i) for i in range(3)]
    os.remove(make(records, media=media)._reader._media_root / "0.png")
    data = make([*records, talk("<image>late?", "a", image="late.png")], media=["late.png"])
    (data._reader._media_root / "late.png").write_text("no picture")
    with pytest.raises(UnusableDataError, match=r"20 samples drawn in place of clip 0 are bad too"):
        data.split("train", 0).clip(0)


def test_link_that_leads_out_is_no_bad_sample(make, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(MediaPathError, match="follow_links=true"):
        make([talk("<image>?", "b", image="a.png")])
    data = make([talk("<image>?", "b", image="a.png")], follow_links=True)
    assert torch.equal(
        data.split("train", 0).clip(0).images, torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    )


# --- memory -------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_hundred_thousand_records_take_little_memory(tmp_path):
    """The file has 180 MB; read by ``json.load`` it takes some 550 MB."""
    code = textwrap.dedent(
        """
        import json, resource, sys
        from spatialprior.data.conversations import LlavaJson
        path = sys.argv[1]
        turns = [{"from": "human", "value": "q " * 200}, {"from": "gpt", "value": "a " * 200}]
        with open(path, "w") as file:
            for i in range(200_000):
                file.write("," if i else "[")
                file.write(json.dumps({"id": str(i), "conversations": turns}))
            file.write("]")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        data = LlavaJson(LlavaJson.Config(path=path, cache_dir=sys.argv[2]))
        clips = data.split("train", 0)
        assert len(data._index) == 200_000
        assert [clips.clip(i).questions[0].answer[:3] for i in range(100)] == ["a a"] * 100
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """
    )
    path = str(tmp_path / "big.json")
    found = subprocess.run(
        [sys.executable, "-c", code, path, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(found.stdout) < 60, f"{found.stdout} MB more"
