"""What holds for every rule of the five benchmarks, whatever a model says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialprior.eval.published.mindcube import MindCube
from spatialprior.eval.published.omnispatial import OmniSpatial
from spatialprior.eval.published.ost_bench import OstBench
from spatialprior.eval.published.rule import Scored
from spatialprior.eval.published.sti_bench import StiBench
from spatialprior.eval.published.viewspatial import ViewSpatial

CHOICES = {"A": "left", "B": "right", "C": "back", "D": "front"}
RECORDS = [
    (MindCube, {"id": "among_1", "gt_answer": "B", "question": "Where? A. left B. right"}),
    (
        OmniSpatial,
        {
            "options": list(CHOICES.values()),
            "answer": 1,
            "task_type": "Complex_Logic",
            "sub_task_type": "Geometric_Reasoning",
        },
    ),
    (
        ViewSpatial,
        {
            "question_type": "Person perspective - Relative Direction",
            "answer": "B. right",
            "choices": "A. left\nB. right",
        },
    ),
    (
        StiBench,
        {
            "Video": "000123.mp4",
            "Task": "Pose Estimation",
            "Answer": "B",
            "Candidates": json.dumps(CHOICES),
        },
    ),
    (OstBench, {"type": "A-b(Judgement)", "answer": "no", "option": ["yes", "no"]}),
    (OstBench, {"type": "A-b(Estimation)", "answer": "2.5", "option": []}),
    (OstBench, {"type": "A-b(Counting)", "answer": "3", "option": []}),
]
CASES = [
    pytest.param(benchmark, record, name, id=f"{benchmark.name}-{i}-{name}")
    for i, (benchmark, record) in enumerate(RECORDS)
    for name in benchmark.rules
]
REPLIES = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            [
                *(
                    "A",
                    "b",
                    "B.",
                    "(C)",
                    "Answer: D",
                    "<answer>",
                    "</think>",
                    "\n",
                    " ",
                    "3.0",
                    "1e400",
                ),
                *('{"answer": "no", "reason": ""}', "nan", "no", "２", "right", "'", "[", "three"),
            ]
        ),
        max_size=8,
    ).map("".join),
)


@pytest.mark.parametrize(("benchmark", "record", "rule"), CASES)
@settings(max_examples=60, deadline=None)
@given(reply=REPLIES)
def test_no_reply_stops_it_and_scores_are_shares(benchmark, record, rule, reply):
    graded = benchmark.rules[rule].grade(record, reply)
    assert (graded.score is None) == (graded.unscored is not None)
    assert graded.score is None or 0 <= graded.score <= 1
    sums = benchmark.rules[rule].aggregates([Scored(record, reply, graded.score)])
    assert all(0 <= value <= 100 for value in sums.values())


@pytest.mark.parametrize(("benchmark", "record", "rule"), CASES)
def test_the_right_answer_is_right(benchmark, record, rule):
    reply = str(record.get("answer", record.get("Answer", record.get("gt_answer"))))
    if benchmark is OmniSpatial:
        reply = '{"answer": "B"}' if rule == "official_json" else "Answer: B"
        reply = "B" if rule.endswith("direct") else reply
    assert benchmark.rules[rule].grade(record, reply).score == pytest.approx(1.0)
    wrong = reply.replace("B", "A").replace("no", "yes").replace("right", "left")
    wrong = "1" if wrong == reply else wrong
    assert benchmark.rules[rule].grade(record, wrong).score < 0.5


@pytest.mark.parametrize("benchmark", dict.fromkeys(b for b, _ in RECORDS), ids=lambda b: b.name)
def test_its_yaml_names_rules_and_sums_that_there_are(benchmark):
    record = next(record for each, record in RECORDS if each is benchmark)
    assert {"official", "saner"} <= set(benchmark.rules)
    for name, protocol in benchmark.spec.protocols.items():
        assert protocol.source
        rule = benchmark.rules[protocol.rule]
        if benchmark is not OstBench:  # its overall score needs every type: test_ost_bench.py
            assert protocol.headline in rule.aggregates([Scored(record, "B", 1.0)]), name
