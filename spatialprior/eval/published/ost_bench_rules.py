"""How OST-Bench grades a turn, and the eight cells of its overall score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.metrics.closest_option import closest_option
from spatialprior.eval.metrics.relative_accuracy import mean_relative_accuracy
from spatialprior.eval.metrics.stepped_accuracy import stepped_accuracy
from spatialprior.eval.parsers.answer_field import answer_field, counted
from spatialprior.eval.parsers.first_word import to_float
from spatialprior.eval.parsers.plain_choice import final_part, named_option, plain_number
from spatialprior.eval.published.rule import Record, Scored

_STATE, _INFO, _OBJECT = "Agent_state", "Agent_visible_info", "Agent_object_spatial"
_SPLIT = {
    f"{_OBJECT}-direction(Judgement": 3,
    f"{_OBJECT}-distance(Judgement": 3,
    f"{_INFO}-existence(Temporal-loc": 2,
}
"""Types that come in several forms, ``...1)`` and so on; their mean stands for them."""


def _types(part: str, form: str, *aspects: str) -> tuple[str, ...]:
    return tuple(f"{part}-{aspect}({form})" for aspect in aspects)


CELLS = {
    "A_state(Judge)": _types(_STATE, "Judgement", "orientation", "position"),
    "A_state(Esti)": _types(_STATE, "Estimation", "orientation", "position"),
    "A_info(Judge)": _types(_INFO, "Judgement", "existence", "order", "diversity"),
    "A_info(Temp)": _types(_INFO, "Temporal-loc", "existence"),
    "A_info(Count)": _types(_INFO, "Counting", "quantity"),
    "AO(Judge)": _types(_OBJECT, "Judgement", "direction", "distance"),
    "AO(Esti)": _types(_OBJECT, "Estimation", "direction", "distance"),
    "AO(Temp)": _types(_OBJECT, "Temporal-loc", "direction", "distance"),
}
"""Cell -> the types whose mean it is; the overall score is the mean of the cells."""

_SUMS = {
    **CELLS,
    "A_state": CELLS["A_state(Esti)"] + CELLS["A_state(Judge)"],
    "A_info": CELLS["A_info(Judge)"] + CELLS["A_info(Temp)"] + CELLS["A_info(Count)"],
    "Judgement": CELLS["AO(Judge)"] + CELLS["A_info(Judge)"] + CELLS["A_state(Judge)"],
    "Estimation": CELLS["AO(Esti)"] + CELLS["A_state(Esti)"],
    "Temporal-loc": CELLS["A_info(Temp)"] + CELLS["AO(Temp)"],
    "Counting": CELLS["A_info(Count)"],
    "AO": ("AO(Judge)", "AO(Esti)", "AO(Temp)"),
    "Overall": tuple(CELLS),
}


def form_of(record: Record) -> str | None:
    """``Estimation``, ``Judgement`` or ``Enumeration``; ``None`` for a type that is not scored."""
    kind = str(record["type"])
    if "Estimation" in kind:
        return "Estimation"
    if "Judgement" in kind:
        return "Judgement"
    return "Enumeration" if "Counting" in kind or "Temporal-loc" in kind else None


def options_of(record: Record) -> list[Any]:
    """The options, also where they were stored as JSON."""
    options = record["option"]
    found = json.loads(options) if isinstance(options, str) else options
    return list(found)


def cells(means: Mapping[str, float]) -> dict[str, float]:
    """Every figure of ``collect_results`` from the means of types, but for those whose parts are missing."""
    known = dict(means)
    for stem, count in _SPLIT.items():
        parts = [f"{stem}{i})" for i in range(1, count + 1)]
        if all(part in means for part in parts):
            known[f"{stem})"] = sum(known.pop(part) for part in parts) / count
    for name, parts_of in _SUMS.items():
        if all(part in known for part in parts_of):
            known[name] = sum(known[part] for part in parts_of) / len(parts_of)
    return known


class Official:
    """``evaluation/OST_evaluator.py`` of OST-Bench@d393d39."""

    decimals = True

    def grade(self, record: Record, reply: str) -> Graded:
        if not self._answered(reply):
            return Graded(None, None, "empty reply: the official code leaves it out")
        form, said = form_of(record), answer_field(reply)
        if form is None:
            return Graded(None, said, f"type {record['type']} is not scored")
        try:
            return Graded(float(self._score(form, record, said)), said)
        except Exception as error:  # whatever stops the official code stops it here
            return Graded(None, said, f"{type(error).__name__}: {error}")

    def _answered(self, reply: str) -> bool:
        return bool(reply)

    def _score(self, form: str, record: Record, said: str) -> float:
        answer = record["answer"]
        if form == "Judgement":
            truth, options = answer.replace('"', ""), options_of(record)
            if truth not in options:
                raise AssertionError("the answer is none of the options")
            return float(options[closest_option(said, options)] == truth)
        if form == "Estimation":
            number, expected = to_float(said), _number(answer)
            if number is None or expected is None:
                return 0.0
            return stepped_accuracy(number, expected)
        try:
            return float(counted(said, decimals=self.decimals) == int(answer))
        except (TypeError, ValueError, OverflowError):
            return 0.0

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        """``Overall``, its cells and sums, and every type's mean (0 to 1), without replies that have no score.

        The official code needs every type; here a figure whose types did not come up is missing.
        """
        scores: dict[str, list[float]] = {}
        for row in rows:
            if row.score is not None:
                scores.setdefault(str(row.record["type"]), []).append(row.score)
        return cells({kind: sum(of) / len(of) for kind, of in scores.items()})


class Vlmevalkit(Official):
    """``vlmeval/dataset/ost_bench.py`` of VLMEvalKit: counts need an integer, ``Failed`` is left out too.

    Its spreadsheet turns an empty reply into ``nan`` before it is read, so that one is scored.
    """

    decimals = False

    def grade(self, record: Record, reply: str) -> Graded:
        return super().grade(record, reply or "nan")

    def _answered(self, reply: str) -> bool:
        return "Failed" not in reply


class Saner(Official):
    """Ours: an option must be named, numbers may have units, an empty reply is wrong and counts."""

    def grade(self, record: Record, reply: str) -> Graded:
        form, said = form_of(record), final_part(reply)
        if form is None:
            return Graded(None, said, f"type {record['type']} is not scored")
        return Graded(float(self._score(form, record, said)), said or None)

    def _score(self, form: str, record: Record, said: str) -> float:
        if form == "Judgement":
            options = [str(option) for option in options_of(record)] if record.get("option") else []
            index = named_option(said, options)
            truth = str(record["answer"]).replace('"', "")
            return float(index is not None and options[index] == truth)
        number, truth_number = plain_number(said), _number(record["answer"])
        if number is None or truth_number is None:
            return 0.0
        if form == "Estimation" and truth_number != 0:
            sign = 1 if truth_number > 0 else -1
            return mean_relative_accuracy(sign * number, sign * truth_number)
        return float(number == truth_number)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
