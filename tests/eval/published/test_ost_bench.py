from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from spatialprior.core.clip import IMAGE_MARK
from spatialprior.eval.published.ost_bench import OstBench
from spatialprior.eval.published.ost_bench_rules import CELLS, cells
from spatialprior.eval.published.reading import RecordsError
from spatialprior.eval.published.rule import Scored

JUDGED = {"type": "Agent_state-position(Judgement)", "answer": "no", "option": ["yes", "no"]}
ESTIMATED = {"type": "Agent_state-position(Estimation)", "answer": "2.0", "option": []}
COUNTED = {"type": "Agent_visible_info-quantity(Counting)", "answer": "2", "option": []}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout: one JSON beside the pictures, the turns of two scans in turn."""
    records = []
    for turn in range(2):
        for scan in ("scan_a", "scan_b"):
            views = [f"{scan}/{turn}_{k}.jpg" for k in range(1 + turn)]
            for view in views:
                path = tmp_path / "images" / view
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (28, 28), (90 * turn, 0, 0)).save(path)
            records.append(
                {
                    "scan_id": scan,
                    "system_prompt": "You explore. ",
                    "turn_id": turn,
                    "type": JUDGED["type"],
                    "origin_question": "?",
                    "answer": "no",
                    "option": ["yes", "no"],
                    "new_observations": views,
                    "user_message": f"Question {turn}",
                }
            )
    (tmp_path / "OST_bench.json").write_text(json.dumps(records))
    return tmp_path


def make(root: Path, **settings) -> OstBench:
    return OstBench(OstBench.Config(root=str(root), **{"check_counts": False, **settings}))


def test_a_scan_is_a_dialogue_whose_turns_bring_only_new_views(root):
    items = list(make(root).items())
    assert [item.dialogue for item in items] == ["scan_a", "scan_a", "scan_b", "scan_b"]
    assert [item.item_id for item in items] == ["0", "2", "1", "3"]  # lines: the schema has no id
    assert len({item.clip.clip_id for item in items}) == 4
    first, second = (item.question.text for item in items[:2])
    assert first == f"You explore. {IMAGE_MARK}Question 0"
    assert second == f"You explore. {IMAGE_MARK}{IMAGE_MARK}Question 1"
    assert [item.clip.load().num_views for item in items] == [1, 2, 1, 2]
    assert items[1].clip.load().images[0].float().mean() > 20
    assert items[0].question.options == ("yes", "no")
    assert items[0].record == {key: JUDGED[key] for key in ("type", "answer", "option")}


def test_a_turn_may_bring_no_view(root):
    records = json.loads((root / "OST_bench.json").read_text())
    records[0]["new_observations"] = []
    (root / "OST_bench.json").write_text(json.dumps(records))
    item = next(iter(make(root).items()))
    assert item.question.text == "You explore. Question 0"
    assert item.clip.load().num_views == 0


def test_the_folder_may_be_called_as_on_the_hub(root):
    (root / "images").rename(root / "imgs")
    assert next(iter(make(root).items())).clip.load().num_views == 1


def test_counts_and_columns_are_checked(root):
    with pytest.raises(RecordsError, match="4 questions, published are 10165"):
        _ = make(root, check_counts=True).records
    (root / "OST_bench.json").write_text('[{"scan_id": "a"}]')
    with pytest.raises(RecordsError, match="no column system_prompt"):
        _ = make(root).records


@pytest.mark.parametrize(
    ("record", "reply", "score"),
    [
        (JUDGED, "no", 1.0),
        (JUDGED, "{'answer': 'no', 'reason': 'x'}", 1.0),
        (JUDGED, "the answer has its reason", 0.0),  # an empty answer is the first option
        ({**JUDGED, "answer": '"no"'}, "No.", 1.0),
        ({**JUDGED, "option": '["yes", "no"]'}, "no", 1.0),
        (ESTIMATED, "2.2", 0.8),
        (ESTIMATED, "2 m", 0.0),
        (ESTIMATED, "nan", 0.0),
        ({**ESTIMATED, "answer": "x"}, "2", 0.0),
        (COUNTED, "Two", 1.0),
        (COUNTED, "2.9", 1.0),
        (COUNTED, "network", 1.0),
        (COUNTED, "2 chairs", 0.0),
        ({**COUNTED, "answer": "2.0"}, "2", 0.0),
    ],
)
def test_the_official_score(record, reply, score):
    assert OstBench.rules["official"].grade(record, reply).score == pytest.approx(score)


@pytest.mark.parametrize(
    ("record", "reply", "why"),
    [
        (JUDGED, "", "empty reply"),
        ({**JUDGED, "answer": "maybe"}, "no", "AssertionError"),
        ({"type": JUDGED["type"], "answer": "no"}, "no", "KeyError"),
        ({**JUDGED, "answer": None}, "no", "AttributeError"),
        ({**ESTIMATED, "answer": "0"}, "1", "ZeroDivisionError"),
        ({**JUDGED, "type": "None"}, "no", "type None is not scored"),
    ],
)
def test_where_the_official_code_gives_no_score(record, reply, why):
    graded = OstBench.rules["official"].grade(record, reply)
    assert graded.score is None
    assert graded.unscored.startswith(why)


def test_vlmevalkit_differs_in_counts_and_in_what_it_leaves_out():
    rule = OstBench.rules["vlmevalkit"]
    assert rule.grade(COUNTED, "2.0").score == 0.0
    assert rule.grade(COUNTED, "2").score == 1.0
    assert rule.grade(COUNTED, "").score == 0.0
    assert rule.grade(COUNTED, "Failed to obtain answer").score is None


@pytest.mark.parametrize(
    ("record", "reply", "score"),
    [
        (JUDGED, "", 0.0),
        (JUDGED, "I would say no.", 1.0),
        ({**ESTIMATED, "answer": "0"}, "0 m", 1.0),
        ({**ESTIMATED, "answer": "-2"}, "-2.2", 0.9),
        (ESTIMATED, "about 2 m", 1.0),
        (COUNTED, "network", 0.0),
        (COUNTED, "2 chairs", 1.0),
    ],
)
def test_the_saner_score(record, reply, score):
    assert OstBench.rules["saner"].grade(record, reply).score == pytest.approx(score)


def test_the_eight_cells_in_closed_form():
    """Every type has another mean, so no two figures can be mixed up."""
    split = {
        "Agent_object_spatial-direction(Judgement)": (0.1, 0.2, 0.6),  # 0.3
        "Agent_object_spatial-distance(Judgement)": (0.3, 0.6, 0.6),  # 0.5
        "Agent_visible_info-existence(Temporal-loc)": (0.2, 0.6),  # 0.4
    }
    means = {f"{k[:-1]}{i})": v for k, of in split.items() for i, v in enumerate(of, start=1)}
    means |= {
        "Agent_state-orientation(Judgement)": 0.2,
        "Agent_state-position(Judgement)": 0.4,
        "Agent_state-orientation(Estimation)": 0.1,
        "Agent_state-position(Estimation)": 0.3,
        "Agent_visible_info-existence(Judgement)": 0.5,
        "Agent_visible_info-order(Judgement)": 0.6,
        "Agent_visible_info-diversity(Judgement)": 1.0,
        "Agent_visible_info-quantity(Counting)": 0.9,
        "Agent_object_spatial-direction(Estimation)": 0.7,
        "Agent_object_spatial-distance(Estimation)": 0.9,
        "Agent_object_spatial-direction(Temporal-loc)": 0.0,
        "Agent_object_spatial-distance(Temporal-loc)": 0.2,
    }
    found = cells(means)
    expected = {
        "A_state(Judge)": 0.3,
        "A_state(Esti)": 0.2,
        "A_info(Judge)": 0.7,
        "A_info(Temp)": 0.4,
        "A_info(Count)": 0.9,
        "AO(Judge)": 0.4,
        "AO(Esti)": 0.8,
        "AO(Temp)": 0.1,
        "A_state": 1.0 / 4,
        "A_info": (0.5 + 0.6 + 1.0 + 0.4 + 0.9) / 5,
        "AO": 1.3 / 3,
        "Judgement": (0.3 + 0.5 + 0.5 + 0.6 + 1.0 + 0.2 + 0.4) / 7,
        "Estimation": (0.7 + 0.9 + 0.1 + 0.3) / 4,
        "Temporal-loc": (0.4 + 0.0 + 0.2) / 3,
        "Counting": 0.9,
        "Overall": (0.3 + 0.2 + 0.7 + 0.4 + 0.9 + 0.4 + 0.8 + 0.1) / 8,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert not any(name.endswith(("1)", "2)", "3)")) for name in found)
    assert len(CELLS) == 8


def test_replies_without_a_score_leave_the_denominator():
    rows = [
        Scored(COUNTED, "2", 1.0),
        Scored(COUNTED, "", None),
        Scored(COUNTED, "3", 0.0),
    ]
    sums = OstBench.rules["official"].aggregates(rows)
    assert sums == {
        COUNTED["type"]: 0.5,
        "A_info(Count)": 0.5,
        "Counting": 0.5,
    }
