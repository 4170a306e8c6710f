"""The bridge under the lmms-eval that is installed: call, command line, replay, comparison, forgetting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval")

from spatialprior.eval.evaluator import evaluate
from spatialprior.eval.lmms import compare, forgetting
from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.model import SpatialPriorLmms
from spatialprior.eval.lmms.replay import ReplayLmms
from spatialprior.eval.lmms.run import simple_evaluate
from spatialprior.eval.lmms.tasks import main as write_tasks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data(layouts, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    layouts.vsi_bench(root, scenes=2)
    layouts.blink(root, items=3, tasks=("Spatial_Relation", "Multi-view_Reasoning"))
    return root


def test_same_replies_as_one_question_at_a_time(export, data):
    tasks = ["blink_spatial_relation", "blink_multi_view_reasoning", "vsibench"]
    packed = SpatialPriorLmms(export, batch_size=4, max_new_tokens=3, device="cpu")
    plain = SpatialPriorLmms(export, max_new_tokens=3, device="cpu", engine="generate")
    found = [simple_evaluate(model, tasks, data) for model in (packed, plain)]
    assert [i.reply for i in found[0].items] == [i.reply for i in found[1].items]
    assert len(found[0].items) == 26 and len({i.reply for i in found[0].items}) > 2
    assert found[0].aggregates == found[1].aggregates and "vsibench" in found[0].aggregates
    # lmms-eval has freed the weights; asked again, the model has them again.
    (again,) = simple_evaluate(packed, tasks[:1], data, limit=1).items
    first = next(i for i in found[0].items if (i.task, i.doc_id) == (tasks[0], 0))
    assert again.reply == first.reply


def test_stored_replies_score_the_same_under_both(data, tmp_path, capsys):
    said = ["A", "b.", "three chairs", "(C)", "2.5", "", "about 3,000", " D.. ", "twenty-one", "-1"]
    lines = [{"id": str(k), "reply": said[k % len(said)]} for k in range(20)]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["--benchmark", "vsi_bench", "--tasks", "vsibench", "--data", str(data)]
    asked += ["--replies", str(tmp_path), "--out", str(tmp_path / "items.jsonl")]
    assert compare.main(asked) == 0, capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and len({row["ours"] for row in rows}) > 1
    assert [row["reply"] for row in rows] == [line["reply"].strip() for line in lines]


def test_the_same_export_scores_the_same_under_both(export, data, tmp_path):
    from spatialprior.backbones.qwen2_5_vl import Qwen2_5VL
    from spatialprior.eval.published.blink import Blink

    root = str(data / "BLINK")
    config = Blink.Config(root=root, protocol="lmms_eval", check_counts=False, max_new_tokens=3)
    benchmark = Blink(config)
    settings = Qwen2_5VL.Config()
    ours = evaluate(export, benchmark, backbone=Qwen2_5VL, settings=settings, out=tmp_path)
    model = SpatialPriorLmms(export, batch_size=4, max_new_tokens=3, device="cpu")
    theirs = simple_evaluate(model, ["blink_spatial_relation", "blink_multi_view_reasoning"], data)
    names = {name: record["idx"] for name, record in benchmark.records}
    expected = {item.document["idx"]: (item.reply, item.score) for item in theirs.items}
    assert {names[r["id"]]: (r["reply"], r["score"]) for r in ours.replies} == expected


def test_the_command_line_finds_both_models(export, data, tmp_path):
    """Through the entry points of ``pyproject.toml``, as an installation has them."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    about = tmp_path / "site" / "bridge_test-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bridge-test\nVersion: 1\n")
    lines = [f"{name} = {target}" for name, target in points["lmms_eval.models"].items()]
    (about / "entry_points.txt").write_text("\n".join(["[lmms_eval.models]", *lines]) + "\n")
    tasks = tmp_path / "tasks"
    task = "blink_spatial_relation"
    assert write_tasks(["--tasks", task, "--data", str(data), "--out", str(tasks)]) == 0
    replies = tmp_path / "replies.jsonl"
    replies.write_text("".join(json.dumps({"id": str(k), "reply": "(A)"}) + "\n" for k in range(3)))
    paths = [str(ROOT), str(tmp_path / "site"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(data)}
    for model, options in (
        ("spatialprior", f"pretrained={export},max_new_tokens=2"),
        ("spatialprior_replay", f"replies={replies},key=row"),
    ):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "lmms_eval", "--model", model, "--model_args", options),
                *("--tasks", f"local_{task}", "--include_path", str(tasks), "--device", "cpu"),
                *("--output_path", str(tmp_path / model), "--log_samples"),
            ],
            env=environment,
            capture_output=True,
            text=True,
        )
        written = list((tmp_path / model).rglob(f"*samples_local_{task}.jsonl"))
        assert len(written) == 1, done.stdout + done.stderr
        found = [json.loads(line) for line in written[0].read_text().splitlines()]
        assert len(found) == 3
        if model == "spatialprior_replay":
            assert [sample["filtered_resps"] for sample in found] == ["(A)"] * 3


def test_what_was_forgotten(layouts, export, tmp_path, capsys):
    data = tmp_path / "data"
    counts = layouts.video_mme(data), layouts.temp_compass(data), layouts.next_qa(data)
    out = tmp_path / "out"
    asked = ["--export", str(export), "--base", str(export), "--data", str(data), "--out", str(out)]
    assert forgetting.main([*asked, "--device", "cpu", "--frames", "4"]) == 0
    report = json.loads((out / "forgetting.json").read_text())
    rows = report["tasks"]
    assert {name: row["n"] for name, row in rows.items() if name != "all"} == dict(
        zip(("videomme", "tempcompass_multi_choice", "nextqa_mc_test"), counts, strict=True)
    )
    # The same weights twice: the same replies, and rules that draw an answer draw the same.
    assert all(row["difference"] == 0 and row["clusters"] in (3, 9) for row in rows.values())
    assert (
        "no difference told" in (out / "forgetting.md").read_text() == capsys.readouterr().out[:-1]
    )


def test_what_the_models_do_not_do(export, tmp_path):
    with pytest.raises(LmmsError, match="neither an export"):
        SpatialPriorLmms(tmp_path)
    with pytest.raises(LmmsError, match="engine=fast: choose from"):
        SpatialPriorLmms(export, engine="fast")
    with pytest.raises(LmmsError, match="asks for likelihoods"):
        SpatialPriorLmms(export, device="cpu").loglikelihood([])
    (tmp_path / "replies.jsonl").write_text("")
    with pytest.raises(LmmsError, match="one round"):
        ReplayLmms(str(tmp_path)).generate_until_multi_round([])


def test_rounds_are_asked_until_the_task_says_stop(export):
    model = SpatialPriorLmms(export, device="cpu", max_new_tokens=2)
    asked = []

    def make(document, round_idx=None, previous_output=None, previous_round_info=None):
        asked.append((round_idx, previous_output, previous_round_info))
        turn = [{"role": "user", "content": f"{document} {round_idx or 0}?"}]
        return turn if round_idx is None else (turn, round_idx == 2, previous_output, "seen")

    class Request:
        args = ("", make, {}, 0, "t", "test")

    model.task_dict = {"t": {"test": ["ball"]}}
    (replies,) = model.generate_until_multi_round([Request()])
    assert len(replies) == 2
    assert asked == [(None, None, None), (1, replies[:1], None), (2, replies, "seen")]
