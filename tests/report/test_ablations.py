"""What the report says of ablations and of leaks, and that names in them stay text."""

from __future__ import annotations

from typing import Any

import pytest

from spatialprior.report.ablations import ablation_sentences, leak_line
from spatialprior.report.html import render
from spatialprior.report.summary import summary


def entry(low: float, high: float, **more: Any) -> dict[str, Any]:
    own = {
        "what": "no views at all", "applicable": True, "reason": None, "direction": "higher",
        "score": 0.2, "whole": 0.5, "chance": 0.25, "difference": (low + high) / 2,
        "ci95": [low, high], "n": 90, "clusters": 30, "graded": False, "unreadable": 0,
        "mcnemar": {"only_whole": 31, "only_ablated": 4, "p": 1e-9, "p_holm": 2e-9},
    }  # fmt: skip
    own |= more
    task = {k: v for k, v in own.items() if k not in ("what", "applicable", "reason", "direction")}
    return {**own, "tasks": {"<script>alert(1)</script>": task}}


def report(leaks: Any = None, **ablations: Any) -> dict[str, Any]:
    return {"recipe": "gasp_qwen", "seed": 0, "ablations": ablations, "leaks": leaks}


@pytest.mark.parametrize(
    ("name", "bounds", "more", "said"),
    [
        ("blind", (0.2, 0.4), {}, "Without its views the model loses 0.300 [0.200, 0.400]: it looks."),
        ("blind", (-0.1, 0.1), {}, "so nothing here says that it looks."),
        ("blind", (-0.4, -0.2), {}, "answers better"),
        ("blind", (-0.4, -0.2), {"direction": "lower"}, "loses 0.300 [0.200, 0.400]: it looks."),
        ("blind", (0.2, 0.4), {"unreadable": 7}, "7 of 90 replies are then none of the options."),
        ("blind", (0.2, 0.4), {"ci95": None}, "too few scenes to tell"),
        ("single_frame", (0.2, 0.4), {}, "it uses the others"),
        ("shuffled_frames", (-0.1, 0.1), {}, "nothing here says that their order matters"),
        ("zero_prior", (0.2, 0.4), {}, "it uses them"),
        ("of_a_plugin", (0.2, 0.4), {}, "of_a_plugin the model loses"),
    ],
)  # fmt: skip
def test_sentences_follow_from_intervals(name, bounds, more, said):
    (sentence,) = ablation_sentences(report(**{name: entry(*bounds, **more)}))
    assert said in sentence


def test_the_page_and_the_summary_show_the_table(tmp_path):
    absent = {"what": "zeros", "applicable": False, "reason": "not applicable: the export holds no prior",
              "direction": "higher"}  # fmt: skip
    found = report(blind=entry(0.2, 0.4), zero_prior=absent)
    page, text = render(found, tmp_path), summary(found)
    for shown in (page, text):
        assert "0.300 [0.200, 0.400]" in shown and "&lt; 0.001" in shown.replace(
            "< 0.001", "&lt; 0.001"
        )
        assert "not applicable: the export holds no prior" in shown and "30" in shown
    assert "Does it matter?" in page and "31 / 4" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "scores are graded" not in page
    graded = render(report(blind=entry(0.2, 0.4, graded=True)), tmp_path)
    assert "scores are graded" in graded


def test_without_ablations_there_is_no_section(tmp_path):
    for found in (report(), {"recipe": "x", "seed": 0}):
        assert "Does it matter?" not in render(found, tmp_path)


LEAKS = {
    "shared": 1,
    "first": ["<b>"],
    "told": "1 scene (<b>; of data)",
    "benchmark": {"audited": True, "scenes": 3, "unnamed": 0},
    "sources": {
        "data": {"audited": True, "scenes": 9, "unnamed": 2},
        "chat": {"audited": False, "why": "it cannot tell its scenes"},
    },
}


def test_leaks_are_a_warning_and_what_was_not_audited_is_named(tmp_path):
    found = {**report(LEAKS), "eval": {"t": {"score": 0.5, "n": 3}}}
    page, text = render(found, tmp_path), summary(found)
    for shown in (page, text):
        assert (
            "not all held out" in shown and "Not audited: chat: it cannot tell its scenes" in shown
        )
    assert "<b>;" not in page and "&lt;b&gt;" in page
    assert leak_line(found).startswith(
        "3 scenes of the benchmark against 9 of data (and 2 that name none): 1 shared."
    )
    clean = report({**LEAKS, "shared": 0})
    assert "held out" not in summary(clean) and "none shared" in summary(clean)
    unknown = {"audited": False, "why": "it cannot tell its scenes"}
    assert "Scenes not audited" in leak_line(report({**LEAKS, "shared": 0, "benchmark": unknown}))
    assert leak_line({}) == ""
