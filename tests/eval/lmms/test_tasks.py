"""Copies of tasks on local data, from a made-up wheel: paths, names, mended faults, and what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.installed import checked
from spatialprior.eval.lmms.task_files import _Loader
from spatialprior.eval.lmms.tasks import local_tasks, main, set_environment

TEMPLATE = """\
dataset_path: jasonzhango/SPAR-Bench
test_split: test
dataset_kwargs:
  token: True
  cache_dir: spar_cache
doc_to_text: !function utils.text
generation_kwargs: {max_new_tokens: 100}
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    folder = tmp_path / "wheel" / "sparbench"
    folder.mkdir(parents=True)
    (folder / "_default_template_yaml").write_text(TEMPLATE)
    (folder / "sparbench.yaml").write_text(
        "task: sparbench\ntag: spar\ninclude: _default_template_yaml\n"
    )
    (folder / "all.yaml").write_text("group: spar_all\ntask:\n  - spar\n")
    (folder / "utils.py").write_text(
        "from math import pi\n\ndef text(doc):\n    return partial(max, 1)(2)\n"
    )
    video = tmp_path / "wheel" / "tempcompass"
    video.mkdir()
    (video / "mc_file.yaml").write_text(
        "task: multi\ndataset_path: lmms-eval/TempCompass\n"
        "dataset_kwargs: {token: True, video: True, cache_dir: tempcompass}\n"
    )
    (video / "utils.py").write_text("def get_eval_result(prompt, maxtry=10):\n    raise OSError\n")
    return tmp_path / "wheel"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "SPAR-Bench").mkdir(parents=True)
    return tmp_path / "data"


def config(path: Path) -> dict:
    return yaml.load(path.read_text(), _Loader)


def test_a_copy_reads_local_data_and_nothing_else(wheel, data, tmp_path):
    made = local_tasks(["sparbench"], data, tmp_path / "out", source=wheel)
    template = tmp_path / "out" / "sparbench" / "_default_template_yaml"
    values = config(template)
    assert values["dataset_path"] == str(data / "SPAR-Bench")
    assert values["dataset_kwargs"] == {"cache_dir": str(tmp_path / "out" / "spar_cache")}
    assert values["generation_kwargs"] == {"max_new_tokens": 100}
    assert (
        "!function 'utils.text'" in template.read_text()
        or "!function utils.text" in template.read_text()
    )
    assert made.names == ("sparbench",) and made.environment["HF_HOME"] == str(data)
    assert made.environment["HF_DATASETS_OFFLINE"] == "1"
    assert (
        "token" in (wheel / "sparbench" / "_default_template_yaml").read_text()
    )  # the wheel is left alone


def test_the_lost_import_is_put_back_once(wheel, data, tmp_path):
    made = local_tasks(["sparbench"], data, tmp_path / "out", source=wheel)
    found: dict = {}
    exec((tmp_path / "out" / "sparbench" / "utils.py").read_text(), found)
    assert found["text"](None) == 2 and len(made.mended) == 1 and "partial" in made.mended[0]
    utils = wheel / "sparbench" / "utils.py"
    utils.write_text("from functools import partial\n" + utils.read_text())
    assert local_tasks(["sparbench"], data, tmp_path / "out", source=wheel).mended == ()


def test_no_judge_is_asked(wheel, data, tmp_path):
    (data / "TempCompass").mkdir()
    (data / "tempcompass").mkdir()
    made = local_tasks(["mc_file"], data, tmp_path / "out", source=wheel)
    assert made.names == ("multi",)
    found: dict = {}
    exec((tmp_path / "out" / "tempcompass" / "utils.py").read_text(), found)
    assert found["get_eval_result"]("prompt") == (None, 0)


def test_other_names_reach_tags_and_groups(wheel, data, tmp_path):
    made = local_tasks(
        ["spar_all", "sparbench"], data, tmp_path / "out", prefix="local_", source=wheel
    )
    assert made.names == ("local_spar_all", "local_sparbench")
    copy = tmp_path / "out" / "sparbench"
    assert config(copy / "all.yaml") == {"group": "local_spar_all", "task": ["local_spar"]}
    assert config(copy / "sparbench.yaml")["tag"] == "local_spar"


def test_what_is_missing_is_told_before_anything_runs(wheel, data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(LmmsError, match="no task 'sparbenc'; did you mean sparbench"):
        local_tasks(["sparbenc"], data, out, source=wheel)
    with pytest.raises(LmmsError, match="TempCompass is missing: the questions of multi"):
        local_tasks(["multi"], data, out, source=wheel)
    (data / "TempCompass").mkdir()
    with pytest.raises(LmmsError, match="tempcompass is missing: the videos of multi"):
        local_tasks(["multi"], data, out, source=wheel)
    (wheel / "sparbench" / "_default_template_yaml").unlink()
    with pytest.raises(LmmsError, match=r"lacks \(as 0\.7\.1 and 0\.7\.2 do\)"):
        local_tasks(["sparbench"], data, out, source=wheel)


def test_releases_without_task_files_are_refused(tmp_path):
    (tmp_path / "vsibench").mkdir()
    with pytest.raises(LmmsError, match=r"0\.7 lacks any task .*lmms-eval==0\.7\.3"):
        checked(tmp_path, "0.7")
    (tmp_path / "vsibench" / "vsibench.yaml").write_text("task: vsibench\n")
    with pytest.raises(LmmsError, match=r"0\.7\.2 lacks the templates"):
        checked(tmp_path, "0.7.2")
    (tmp_path / "vsibench" / "_default_template_yaml").write_text("")
    assert checked(tmp_path, "0.7.3") == tmp_path


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("HF_HOME", "before")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    with set_environment({"HF_HOME": "inside", "HF_DATASETS_OFFLINE": "1"}):
        assert os.environ["HF_HOME"] == "inside"
    assert os.environ["HF_HOME"] == "before" and "HF_DATASETS_OFFLINE" not in os.environ


def test_the_command_line_says_what_is_wrong(monkeypatch, tmp_path, capsys, wheel):
    monkeypatch.setattr("spatialprior.eval.lmms.tasks.tasks_folder", lambda: wheel)
    asked = ["--tasks", "nothing", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(asked) == 2 and "no task 'nothing'" in capsys.readouterr().err
