"""Does the prior do anything: the answer follows from the intervals and from nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from spatialprior.report.controls import control_rows, control_statements
from spatialprior.report.html import render
from spatialprior.report.summary import summary
from spatialprior.run.comparisons import comparisons


def gap(low: float, high: float, at_inference: bool = False) -> dict[str, Any]:
    return {
        "mean": (low + high) / 2,
        "ci95": [low, high],
        "n": 900,
        "clusters": 60,
        "at_inference": at_inference,
        "tasks": {"a": {"score": 0.4, "n": 300}, "b": {"score": 0.6, "n": 600}},
    }


def report(**gaps: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": "vega3d_baseline", "seed": 0, "priors": ["vega3d"], "comparisons": gaps}


BETTER, EQUAL, WORSE = gap(0.02, 0.06), gap(-0.02, 0.03), gap(-0.06, -0.02)


@pytest.mark.parametrize(
    ("control", "matched", "tone", "said"),
    [
        (BETTER, BETTER, "good", "Yes: it beats no prior and every arm of equal capacity"),
        (BETTER, EQUAL, "neutral", "but not noise for features: the gain may be capacity's"),
        (EQUAL, EQUAL, "neutral", "Nothing that these questions show"),
        (WORSE, EQUAL, "bad", "Not for the better: no prior (SFT) answers better"),
        (EQUAL, WORSE, "bad", "Not for the better: noise for features answers better"),
        (EQUAL, BETTER, "neutral", "Nothing that these questions show"),
    ],
)
def test_headline(control, matched, tone, said):
    (statement,) = control_statements(report(control=control, noise=matched))
    assert statement.tone == tone and said in statement.lead
    assert "noise for features" in statement.text and "[" in statement.text


def test_whether_the_trained_model_uses_its_features():
    used = report(noise=EQUAL, zero_features=gap(0.1, 0.2, True), other_scene=gap(-0.1, 0.2, True))
    assert "uses its features" in control_statements(used)[1].lead
    ignored = report(noise=EQUAL, other_scene=gap(-0.01, 0.02, True))
    assert "no sign" in control_statements(ignored)[1].lead
    hurt = report(noise=EQUAL, zero_features=gap(-0.2, -0.1, True))
    assert "better without its features" in control_statements(hurt)[1].lead


def test_only_arms_that_were_there_are_named():
    (alone,) = control_statements(report(noise=BETTER))
    assert "it beats every arm of equal capacity" in alone.lead
    assert control_statements(report(control=BETTER, corr_only=EQUAL)) == []
    assert control_rows(report(control=BETTER, corr_only=EQUAL))


def test_a_recipe_with_the_sft_control_alone_has_no_such_section(tmp_path):
    assert control_rows(report(control=BETTER)) == []
    assert control_statements(report(control=BETTER)) == []
    assert "Does the prior do anything" not in render(report(control=BETTER), tmp_path)


def test_page_and_terminal_show_every_arm(tmp_path):
    shown = report(control=BETTER, noise=EQUAL, my_own_arm=WORSE, other_scene=gap(0.1, 0.2, True))
    for text in (render(shown, tmp_path), summary(shown)):
        for words in (
            "no prior (SFT)",
            "noise for features",
            "my own arm",
            "at inference",
            "worse",
        ):
            assert words in text, words
    page = render(report(**{"noise": EQUAL, "<script>": EQUAL}), tmp_path)
    assert "<script>" not in page.split("<style>")[1].split("</style>")[1]


def test_the_export_that_keeps_a_prior_is_told_in_rows(tmp_path):
    kept = {
        "kept": ["vega3d"],
        "identical_logits": True,
        "kept_parameters": 12_929,
        "frozen_parameters": 2_915_003,
        "flops": 100,
        "fusion_flops": 2,
        "frozen_flops": 134,
    }
    export = {"identical_logits": True, "extra_keys": [], "adapter_difference": None, "kept": kept}
    page = render({**report(noise=EQUAL), "export": export}, tmp_path)
    assert "+136% FLOPs" in page and "12,929" in page
    assert "None" not in page and "kept_parameters" not in page
    broken = {**export, "kept": {**kept, "identical_logits": False}}
    assert "does not compute" in render({**report(noise=EQUAL), "export": broken}, tmp_path)


def replies(scores: list[float]) -> dict[str, Any]:
    rows = [{"id": str(i), "score": s, "source_id": f"room{i // 2}"} for i, s in enumerate(scores)]
    return {"replies": rows, "tasks": {"a": {"score": sum(scores) / len(scores)}}}


def test_comparisons_are_paired_by_question():
    scores = {
        "before": replies([0, 0, 0, 0]),
        "after": replies([1, 1, 0, 1]),
        "control": replies([1, 0, 0, 0]),
        "noise": replies([1, 1, 0]),
        "zero_features": replies([0, 0, 0, 0]),
    }
    found = comparisons(scores, {"zero_features"})
    assert found["eval_vs_control"]["mean"] == 0.5
    gaps = found["comparisons"]
    assert list(gaps) == ["control", "noise", "zero_features"]
    assert gaps["noise"]["mean"] == 0 and gaps["noise"]["n"] == 3 and gaps["noise"]["clusters"] == 2
    assert [gaps[name]["at_inference"] for name in gaps] == [False, False, True]
    assert comparisons({}, ()) == {"eval_vs_control": None, "comparisons": {}}
