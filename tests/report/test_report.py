from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_links import Links

from spatialprior.diagnostics.result import ProbeResult, Samples
from spatialprior.diagnostics.trace import MatchTrace
from spatialprior.report.figures import read_log
from spatialprior.report.html import duration, render, write_html
from spatialprior.report.schema import ReportError, read_report, write_report
from spatialprior.report.summary import summary
from spatialprior.report.verdict import beats_blind, statements, targets


def arm(*pck: float, seed: int = 0) -> dict[str, Any]:
    """An arm whose layers have about these PCKs, in report form."""
    rng = np.random.default_rng(seed)
    n = 800
    correct = rng.random((n, len(pck))) < np.array(pck)
    result = ProbeResult.from_samples(
        Samples(
            correct=correct,
            confidence=(rng.random((n, len(pck))) + correct).astype(np.float32),
            chance=np.full(n, 0.04, np.float32),
            static=np.arange(n) % 5 == 0,
            distance=np.arange(n) % 3 + 1,
            pair=np.arange(n) // 40,
            clip_ids=[f"c{i // 40}" for i in range(n)],
            source_ids=[f"s{i // 40}" for i in range(n)],
        ),
        {"pooling": "mean", "radius_patches": 2.0},
    )
    return result.at_layer(int(np.argmax(pck)))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    score = {"chance": 0.5, "n": 300}
    return {
        "schema_version": "1.0",
        "recipe": "gasp_qwen",
        "size": "nano",
        "seed": 3,
        "data": "rooms",
        "priors": ["gasp"],
        "seconds": {"train": 200.0, "probe": 4.2},
        "peak_rss_bytes": 2**31,
        "probe": {"before": arm(0.04, 0.05), "control": arm(0.05, 0.07), "after": arm(0.75, 0.6)},
        "eval": {
            "camera_motion": {**score, "score": 0.7, "blind": 0.5, "ci95": [0.6, 0.8], "multi_view": True},
            "color_at": {**score, "score": 0.5, "blind": 0.5, "ci95": [0.4, 0.6]},
        },
        "export": {"identical_logits": True, "extra_keys": [], "parameters": 1000},
        "replies": [
            {"clip_id": "c", "task": "t", "question": "q <b>", "answer": "red",
             "reply": "<script>alert('x')</script>", "correct": False}
        ],
    }  # fmt: skip


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    lines = [
        json.dumps({"step": s, "loss": 2.0 / s, "raw/gasp/depth": 1.0, "lr/model": 1e-3})
        for s in (1, 2, 3)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo')
    points = np.array([[20.0, 20.0], [40.0, 60.0]])
    heat = np.full((2, 4, 4), 1 / 16)
    heat[1] = np.nan
    for name in ("before", "after"):
        MatchTrace(
            images=np.zeros((2, 64, 64, 3), np.uint8),
            pair=np.array([1, 0]),
            points_a=points,
            points_b=points,
            truth_b=points,
            correct=np.array([True, False]),
            query=points[0],
            heat=heat,
            query_truth=np.array([[20.0, 22.0], [np.nan, np.nan]]),
            layer=np.array(1),
        ).save(tmp_path / "pictures" / f"{name}.npz")
    return tmp_path


def test_page_is_one_file_that_requests_and_runs_nothing(
    report: dict[str, Any], folder: Path
) -> None:
    page = write_html(report, folder).read_text()
    links = Links()
    links.feed(page)
    assert not links.open
    assert links.urls and all(url.startswith("data:") for url in links.urls)
    assert "script" not in links.tags and "iframe" not in links.tags
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert len(links.alts) == 7 and all(links.alts)  # four curves, two pictures, training
    for source in links.urls:
        if source.startswith("data:image/svg"):
            svg = base64.b64decode(source.split(",", 1)[1]).decode()
            assert not re.search(r'(href|src)="https?:', svg)


def test_replies_are_escaped(report: dict[str, Any], folder: Path) -> None:
    page = render(report, folder)
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "q &lt;b&gt;" in page


def test_verdict_comes_first_and_numbers_have_company(report: dict[str, Any], folder: Path) -> None:
    page = render(report, folder)
    assert page.index("GASP beat the control") < page.index("<img")
    first = statements(report)[0]
    assert first.tone == "good" and "800 anchors" in first.text
    assert "Chance gives 0.04, the same place 0.20" in first.text and "[" in first.text
    assert "re-implementation" in page and "Not verified" in page


def test_verdict_is_plain_when_the_run_fell_short(report: dict[str, Any]) -> None:
    bad = {
        **report,
        "probe": {"control": arm(0.07), "after": arm(0.07, seed=1), "corr_only": arm(0.30)},
        "eval": {"color_at": report["eval"]["color_at"]},
        "export": {"identical_logits": False, "extra_keys": ["a", "b"]},
    }
    leads = " ".join(s.lead for s in statements(bad))
    assert "GASP did not beat the control at matching." in leads
    assert "The full method does not beat correspondence alone." in leads
    assert "On 0 of 1 question types" in leads and "not a stock checkpoint" in leads
    assert "no meaning" in leads  # a ratio of two chance levels is not robustness
    met = {t.name: t.met for t in targets(bad)}
    assert met["peak PCK"] is False and met["peak PCK of the control"] is True


def test_targets_follow_size_and_data(report: dict[str, Any]) -> None:
    assert {t.name: t.wanted for t in targets({**report, "size": "small"})}["peak PCK"] == "≥ 0.80"
    real = {t.name: t for t in targets({**report, "data": "posed_rgbd"})}
    assert real["peak PCK over the control's"].met and "peak PCK" not in real
    assert targets({**report, "priors": []}) == []
    alone = {**report, "probe": {"after": report["probe"]["after"]}}
    assert {t.name: t.met for t in targets(alone)}["peak PCK of the control"] is None


@pytest.mark.parametrize(
    "row, wanted",
    [
        ({"score": 0.6, "blind": 0.5, "ci95": [0.51, 0.7]}, True),
        ({"score": 0.6, "blind": 0.5, "ci95": [0.49, 0.7]}, False),
        (
            {"score": 0.6, "blind": 0.5, "ci95": [0.51, 0.7], "vs_blind": {"ci95": [-0.01, 0.2]}},
            False,
        ),
        ({"score": 0.6, "blind": 0.5}, None),
    ],
)
def test_beating_the_lookup_needs_an_interval(row: dict[str, Any], wanted: bool | None) -> None:
    assert beats_blind(row) is wanted


@pytest.mark.parametrize(
    "missing", ["probe", "eval", "export", "priors", "seconds", "replies", "size"]
)
def test_opens_with_any_section_missing(
    report: dict[str, Any], missing: str, tmp_path: Path
) -> None:
    partial = {key: value for key, value in report.items() if key != missing}
    links = Links()
    links.feed(render(partial, tmp_path))
    assert not links.open and summary(partial)


def test_opens_with_nothing_but_the_required(tmp_path: Path) -> None:
    page = render({"schema_version": "1.0", "recipe": "sft_qwen", "seed": 0}, tmp_path)
    assert "The probe did not run" in page and "No questions were scored" in page


@pytest.mark.parametrize("arms", [["after"], ["before", "after"], ["control"]])
def test_opens_with_arms_missing(report: dict[str, Any], arms: list[str], tmp_path: Path) -> None:
    partial = {**report, "probe": {name: report["probe"][name] for name in arms}}
    assert "<img" in render(partial, tmp_path)
    assert summary(partial)


def test_summary_is_short_and_narrow(report: dict[str, Any]) -> None:
    text = summary(report)
    table = text[text.index("matching ") :]
    assert max(map(len, table.splitlines())) <= 100
    assert "after GASP" in table and "beats lookup" in table and "control (SFT)" in table


def test_report_json_round_trip_is_strict_json(report: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.json"
    write_report({**report, "odd": [float("nan"), np.float32(0.5), Path("x")]}, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    back = read_report(path)
    assert back["odd"] == [None, 0.5, "x"]
    assert back["probe"] == json.loads(json.dumps(report["probe"]))


def test_unreadable_reports_say_why(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(ReportError, match="does not exist"):
        read_report(path)
    path.write_text('{"a": ')
    with pytest.raises(ReportError, match="not JSON"):
        read_report(path)
    path.write_text('{"schema_version": "9.0", "recipe": "x", "seed": 0}')
    with pytest.raises(ReportError, match=r"schema 9\.0"):
        read_report(path)
    with pytest.raises(ReportError, match="needs recipe, seed"):
        write_report({}, path)


def test_log_survives_a_cut_line(folder: Path) -> None:
    series = read_log(folder / "log.jsonl")
    assert series["loss"] == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert read_log(folder / "absent.jsonl") == {}


def test_durations() -> None:
    assert [duration(s) for s in (None, 4.21, 42, 125, 7260)] == [
        "–",
        "4.2 s",
        "42 s",
        "2 min 05 s",
        "2 h 01 min",
    ]


@pytest.mark.parametrize(("kept", "told"), [(True, False), (False, True)])
def test_verdict_tells_what_training_forgot(kept: bool, told: bool) -> None:
    def row(low):
        return {
            "score": 0.8,
            "blind": 0.5,
            "n": 90,
            "vs_blind": {"mean": low + 0.1, "ci95": [low, low + 0.2]},
        }

    report = {"eval": {"count": row(0.2 if kept else -0.1)}, "eval_before": {"count": row(0.2)}}
    said = [s.lead for s in statements(report) if "cost answers" in s.lead]
    assert bool(said) is told


def test_protocol_stands_beside_the_scores(report: dict[str, Any], folder: Path) -> None:
    figure = {"value": 0.5, "ci95": [0.4, 0.6]}
    card = {
        "benchmark": "vsi_bench",
        "version": "1",
        "split": "full",
        "protocol": "official",
        "rule": "saner",
        "deviations": ["frames is 8, not <32>"],
        "headline": {"name": "overall", "value": 0.25, "ci95": None},
        "micro": figure,
        "macro": {"value": 0.125, "ci95": None},
        "n": 5130,
        "parse_failure_rate": 0.0625,
        "unscored": {"judge": 7},
        "errors": 3,
        "file": "replies/after/card.json",
    }
    plain = card | {
        "rule": "official",
        "deviations": [],
        "unscored": {},
        "parse_failure_rate": None,
    }
    cards = {"after": card, "zero_features": plain}
    page = render(report | {"cards": cards}, folder)
    for text in (
        "vsi_bench full: official, rule saner*",
        "recipe deviates from the protocol: frames is 8, not &lt;32&gt;.",
        "overall 0.250",
        "0.500 [0.400, 0.600]",
        "<td>6.2%</td><td>7</td><td>3</td><td>replies/after/card.json</td>",
        "which count as 0: 7 x judge",
        "<td>zeros for features</td><td>vsi_bench full: official</td>",
    ):
        assert text in page, text
    lines = summary(report | {"cards": cards}).splitlines()
    (row,) = [line for line in lines if line.startswith("recipe  ")]
    assert "official, rule saner*" in row and "5130" in row and "6.2%" in row
    assert "* recipe: frames is 8, not <32>" in lines
    assert "Under which protocol" not in render(report, folder)
