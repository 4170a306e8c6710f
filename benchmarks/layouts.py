"""Small data sets in the layouts of published ones, made by code: what lmms-eval reads from local folders.

Each writes a snapshot (``README.md`` that names the configurations, questions), and its media to where
lmms-eval's task looks for them below ``HF_HOME``. Questions are in the words that the nano model knows.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THINGS = ("ball", "box", "barrel", "table", "chair", "lamp", "sofa", "shelf")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
VSI_NUMERIC = (
    "object_counting",
    "object_abs_distance",
    "object_size_estimation",
    "room_size_estimation",
)
VSI_CHOICE = (
    "object_rel_distance",
    "object_rel_direction_easy",
    "object_rel_direction_medium",
    "object_rel_direction_hard",
    "route_planning",
    "obj_appearance_order",
)
BLINK = ("Spatial_Relation", "Relative_Depth", "Multi-view_Reasoning", "Visual_Correspondence")


def vsi_bench(root: Path, scenes: int = 3, rounds: int = 1, frames: int = 8, seed: int = 0) -> int:
    """VSI-Bench: ``rounds`` questions of each type about each of ``scenes`` videos. Returns how many."""
    draw, rows = random.Random(seed), []
    for scene in range(scenes):
        video(root / "vsibench" / "scannet" / f"scene{scene}.mp4", frames, seed + scene)
    # Not scene by scene, as in the published file: questions of one video lie far apart.
    for _ in range(rounds):
        for kind in (*VSI_NUMERIC, *VSI_CHOICE):
            for scene in range(scenes):
                options = draw.sample(THINGS, 4)
                numeric = kind in VSI_NUMERIC
                thing, other = (
                    f"{draw.choice(COLOURS)} {options[0]}",
                    f"{draw.choice(COLOURS)} {options[1]}",
                )
                question = (
                    f"{thing} seen in count images?" if numeric else f"closer to {thing} {other}?"
                )
                truth = str(draw.randint(1, 6)) if numeric else draw.choice("ABCD")
                lettered = [
                    f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=True)
                ]
                rows.append(
                    {
                        "id": len(rows),
                        "dataset": "scannet",
                        "scene_name": f"scene{scene}",
                        "question_type": kind,
                        "question": question,
                        "ground_truth": truth,
                        "options": None if numeric else lettered,
                        "pruned": False,
                    }
                )
    folder = root / "VSI-Bench"
    _card(folder, {"full": ("test", "test.jsonl")})
    _jsonl(folder / "test.jsonl", rows)
    return len(rows)


def blink(root: Path, items: int = 8, seed: int = 0, tasks: Sequence[str] = BLINK) -> int:
    """BLINK: ``items`` questions of each task, their pictures within Parquet files. Returns how many."""
    draw, count = random.Random(seed), 0
    folder = root / "BLINK"
    for task in tasks:
        rows = []
        for k in range(items):
            choices = draw.sample(THINGS, 2)
            question = f"image 1 nearer {choices[0]} or {choices[1]}?"
            listed = "\n".join(
                f"({letter}) {text}" for letter, text in zip("AB", choices, strict=True)
            )
            pictures = [
                _picture(seed + 1000 * count + i) for i in range(2 if "Multi" in task else 1)
            ]
            images = {f"image_{i + 1}": _embedded(pictures, i) for i in range(4)}
            rows.append(
                {
                    "idx": f"val_{task}_{k + 1}",
                    "sub_task": task,
                    "question": question,
                    **images,
                    "choices": choices,
                    "answer": draw.choice(("(A)", "(B)")),
                    "prompt": f"{question}\nSelect from the following choices.\n{listed}",
                }
            )
            count += 1
        _parquet(
            folder / task / "val-00000-of-00001.parquet", rows, [f"image_{i + 1}" for i in range(4)]
        )
    _card(folder, {task: ("val", f"{task}/val-*.parquet") for task in tasks})
    return count


def video_mme(root: Path, videos: int = 3, questions: int = 3, seed: int = 0) -> int:
    """Video-MME. Returns the number of questions."""
    draw, rows = random.Random(seed), []
    for v in range(videos):
        video(root / "videomme" / "data" / f"clip{v}.mp4", 8, seed + v)
        for q in range(questions):
            options = draw.sample(THINGS, 4)
            rows.append(
                {
                    "video_id": f"{v:03d}",
                    "duration": "short",
                    "domain": "Knowledge",
                    "sub_category": "Geography",
                    "url": "",
                    "videoID": f"clip{v}",
                    "question_id": f"{v:03d}-{q + 1}",
                    "task_type": "Spatial Reasoning",
                    "question": f"seen first {options[0]} or {options[1]}?",
                    "options": [f"{x}. {text}" for x, text in zip("ABCD", options, strict=True)],
                    "answer": draw.choice("ABCD"),
                }
            )
    _parquet(root / "Video-MME" / "videomme" / "test-00000-of-00001.parquet", rows)
    _card(root / "Video-MME", {"videomme": ("test", "videomme/test-*.parquet")})
    return len(rows)


def temp_compass(root: Path, videos: int = 3, seed: int = 0) -> int:
    """TempCompass, multiple choice: one question of each dimension about each video. Returns how many."""
    draw, rows = random.Random(seed), []
    for v in range(videos):
        video(root / "tempcompass" / "videos" / f"{v}.mp4", 8, seed + v)
        for dimension in ("action", "direction", "speed", "order", "attribute_change"):
            options = draw.sample(THINGS, 3)
            listed = [f"{letter}. {text}" for letter, text in zip("ABC", options, strict=True)]
            rows.append(
                {
                    "video_id": str(v),
                    "question": "\n".join(["seen first?", *listed]),
                    "answer": draw.choice(listed),
                    "dim": dimension,
                }
            )
    _parquet(root / "TempCompass" / "multi-choice" / "test-00000-of-00001.parquet", rows)
    _card(root / "TempCompass", {"multi-choice": ("test", "multi-choice/test-*.parquet")})
    return len(rows)


def next_qa(root: Path, videos: int = 3, questions: int = 3, seed: int = 0) -> int:
    """NExT-QA, multiple choice. Returns the number of questions."""
    draw, rows = random.Random(seed), []
    for v in range(videos):
        video(root / "nextqa" / "NExTVideo" / f"{4000 + v}.mp4", 8, seed + v)
        for q in range(questions):
            options = draw.sample(THINGS, 5)
            rows.append(
                {
                    "video": 4000 + v,
                    "frame_count": 8,
                    "width": 64,
                    "height": 64,
                    "question": "only image of?",
                    "answer": draw.randrange(5),
                    "qid": q,
                    "type": "TN",
                    **{f"a{i}": text for i, text in enumerate(options)},
                }
            )
    _parquet(root / "NExTQA" / "MC" / "test-00000-of-00001.parquet", rows)
    _card(root / "NExTQA", {"MC": ("test", "MC/test-*.parquet")})
    return len(rows)


def video(path: Path, frames: int, seed: int, side: int = 64) -> None:
    """A video of changing fields of colour, two frames a second: what our encoders take a video for."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 2)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(_fields(seed * 1009 + i, side))
            frame.pts, frame.time_base = i, Fraction(1, 2)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _fields(seed: int, side: int = 64) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).choice([0, 128, 255], (4, 4, 3)).astype(np.uint8)
    return np.ascontiguousarray(coarse.repeat(side // 4, 0).repeat(side // 4, 1))


def _picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_fields(seed)).save(file, "PNG")
    return file.getvalue()


def _embedded(pictures: Sequence[bytes], index: int) -> dict[str, Any] | None:
    return {"bytes": pictures[index], "path": None} if index < len(pictures) else None


def _card(folder: Path, configs: Mapping[str, tuple[str, str]]) -> None:
    """The data set's card, whose head tells ``datasets`` what its configurations are."""
    folder.mkdir(parents=True, exist_ok=True)

    def lines() -> Iterator[str]:
        yield from ("---", "configs:")
        for name, (split, files) in configs.items():
            yield f"- config_name: {name}"
            yield "  data_files:"
            yield f"  - split: {split}"
            yield f"    path: {files}"
        yield "---"

    (folder / "README.md").write_text("\n".join(lines()) + "\n", encoding="utf-8")


def _jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import json

    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]], images: Sequence[str] = ()) -> None:
    from datasets import Dataset
    from datasets import Image as ImageColumn

    path.parent.mkdir(parents=True, exist_ok=True)
    data = Dataset.from_list([dict(row) for row in rows])
    for name in images:
        data = data.cast_column(name, ImageColumn())
    data.to_parquet(str(path))
