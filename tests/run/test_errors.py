"""Whatever is typed wrongly costs one clear line and exit code 2, before any model is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spatialprior.run.__main__ import main
from spatialprior.run.errors import RunError, is_expected, report

BAD = [
    # typed, what the line must say
    (["recipe=gasp_qwenn"], "unknown recipe 'gasp_qwenn'; did you mean gasp_qwen?"),
    (["size=papr"], "unknown size 'papr'; did you mean paper? Choose from: nano, paper, small"),
    (["scale=2gpu"], "unknown scale '2gpu'; did you mean 1gpu?"),
    (["backbone=null"], "unknown backbone 'null'; choose from: llava_next_video, llava"),
    (["data=room"], "did you mean rooms?"),
    (["prior=[gaps]"], "unknown prior 'gaps'; did you mean gasp? Choose from: gasp, gasp_corr"),
    (["prior=[gasp,gasp]"], "gasp is listed twice"),
    (["prior=[gasp,gasp_corr]"], "two of these are presets of the same prior"),
    (["prior=[gasp"], "cannot read 'prior=[gasp'"),
    (["recipe=a,b"], "one run takes one value"),
    (["trainer=[default]"], "trainer=[default]: choose one name; choose from: default"),
    (["trainr.steps=1"], "unknown setting trainr; did you mean trainer?"),
    (["trainer.stepz=1"], "unknown setting trainer.stepz; did you mean trainer.steps?"),
    (["trainer.steps=many"], "trainer.steps=many: expected a whole number"),
    (["trainer.steps=0"], "trainer.steps=0: must be at least 1"),
    (["scale.mixed_precision=fp16"], "expected one of no, bf16"),
    (["mode=trian"], "did you mean train?"),
    (["mode=report"], "mode=report needs a finished run: add resume=RUN_FOLDER"),
    (["probe.pooling=men"], "probe.pooling"),
    (["output_root="], "output_root is empty"),
    (["backbone.kind=qwen2_6_vl"], "unknown backbone 'qwen2_6_vl'; did you mean qwen2_5_vl?"),
    (["priors.gasp.kind=gapp"], "priors.gasp.kind: unknown prior 'gapp'; did you mean gasp?"),
    (["prior=[]", "priors.gasp.corr_weight=0.5"], "drop it, or add prior=[gasp]"),
    (["priors.vega.weight=1"], "priors.vega is set, but no prior of that name is selected"),
    (["priors=3"], "select priors with prior=[NAME]"),
    (["prior.gasp.weight=1"], "priors.NAME.setting=VALUE"),
    (["hydra.run.dir=x"], "unknown setting hydra"),
    (["resume=/no/such/run"], "/no/such/run is no run folder"),
    (["gasp_qwen"], "settings are written key=value"),
    (["~prior"], "to leave priors out: prior=[]"),
    (["--hlep"], "unknown flag --hlep; did you mean --help?"),
    (["--multirun"], "unknown flag --multirun"),
]

BAD_SETTINGS = [
    # these need the class whose settings they are, so they import it
    (["data=posed_rgbd"], "data.root has no value and needs one; add data.root=PATH"),
    (["size=paper"], "data.root has no value"),
    (["data.windw=3"], "unknown rooms setting data.windw; did you mean data.window?"),
    (["data.window=wide"], "data.window=wide: expected a whole number"),
    (["priors.gasp.temprature=1"], "did you mean priors.gasp.temperature?"),
    (["priors.gasp.temperature=-1"], "must be positive"),
    (
        ["backbone.lora.rnk=3"],
        "unknown setting backbone.lora.rnk; did you mean backbone.lora.rank?",
    ),
]


def check(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("spatialprior: "), err
    assert line in err


@pytest.mark.parametrize(("argv", "line"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_line(argv, line, capsys):
    check(argv, line, capsys)


@pytest.mark.parametrize(("argv", "line"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_bad_component_settings_are_one_line(argv, line, capsys):
    check(argv, line, capsys)


def test_help_and_names_load_no_torch():
    """A misspelt name is told at once, not after the seconds that torch takes to import."""
    cases = [["--help"], *(argv for argv, _ in BAD)]
    code = (
        "import sys, contextlib, io\n"
        "from spatialprior.run.__main__ import main\n"
        f"for argv in {cases!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        main(argv)\n"
        "    if 'torch' in sys.modules: sys.exit(f'torch was imported by {argv}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def test_help_lists_every_group_with_its_options(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("gasp_corr_qwen", "posed_rgbd", "8gpu_fsdp2", "prior=[]", "report.html"):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_cfg_prints_yaml_that_is_the_run(capsys):
    import yaml

    assert main(["--cfg", "seed=4"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed"] == 4 and printed["priors"]["gasp"]["kind"] == "gasp"


def test_expected_errors_are_told_from_defects(capsys, monkeypatch):
    assert is_expected(RunError("x")) and not is_expected(ValueError("x"))
    assert report(RunError("two\nlines")) == 1
    assert capsys.readouterr().err == "spatialprior: two lines\n"
    monkeypatch.setenv("SPATIALPRIOR_DEBUG", "1")
    with pytest.raises(RunError):
        report(RunError("x"))


def test_messages_of_lower_packages_are_recognised():
    from spatialprior.core.injector import MissingClipFieldError
    from spatialprior.core.terms import NonFiniteLossError
    from spatialprior.data.sequence import BadFrameError

    for cls in (MissingClipFieldError, NonFiniteLossError, BadFrameError):
        assert is_expected(cls.__new__(cls))
