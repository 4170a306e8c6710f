"""Edge cases of the official parsers, each seen when their own code was executed."""

from __future__ import annotations

import pytest

from spatialprior.eval.parsers.answer_field import answer_field, counted
from spatialprior.eval.parsers.answer_line import (
    answer_line,
    first_character,
    json_answer_letter,
    without_thought,
)
from spatialprior.eval.parsers.easi_choice import easi_choice
from spatialprior.eval.parsers.lone_letter import lone_letter, lone_letter_of_last_line
from spatialprior.eval.parsers.option_phrases import option_phrase
from spatialprior.eval.parsers.ordered_letters import ordered_letters


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("", None),
        ("<answer>A. Above</answer>", "A"),
        ("A. Above or B. Under? B", "B"),  # the last one with a full stop, not the last one
        ("The U.S.A. says D", "A"),  # no word boundary before it
        ("I choose C; not A. Above", "A"),  # quoting an option flips the result
        ("<Answer>my answer is B and C", "B"),
        ("<Answer>The answer is D</Answer>", "D"),
        ("<Answer>B or C</Answer>", "C"),
        ("<answer>B or C</answer>", "B"),  # a small tag is none; lowest line, first letter
        ("<Answer>none</Answer> *D*", "D"),
        ("B\n", "B"),
        ("Answer: C\nso D it is", "C"),
        ('"A" or *B*', "B"),
        ("Answer E", "E"),
        ("the answer is Dog", "D"),
        ("maybe D, E\nor A, B\nwho knows", "A"),
        ("b", None),
        ("F", None),
        ("ABC", None),
    ],
)
def test_mindcube(reply, letter):
    assert ordered_letters(reply) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Answer: B", "B"),
        ("answer :\n C then", "C"),
        ("Answer: B\nAnswer: c", "c"),  # a later small letter hides the right one
        ("Answer: Because", None),
        ("Answer: E", None),
        ("The answer is B", None),
        ("", None),
    ],
)
def test_omnispatial_line(reply, letter):
    assert answer_line(reply) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [("b) left", "B"), (" \nC", "C"), ("", ""), ("(A)", "("), ("ßx", "S")],
)
def test_omnispatial_first_character(reply, letter):
    assert first_character(reply) == letter


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ('{"answer": "b"}', "B"),
        ('```json\n{"answer": " C. left"}\n```', "C"),
        ('{"answer": ""}', ""),  # not a failure, so not A
        ("{}", "A"),
        ('{"answer": null}', None),
        ('["B"]', None),
        ('{"answer": "B"', None),
        ("B", None),
        ("[" * 100_000, None),
    ],
)
def test_omnispatial_json(reply, letter):
    assert json_answer_letter(reply) == letter


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("A</think> B", "B"),
        ("A</thought>x</think>C", "C"),
        ("so <ANSWER> d </ANSWER> e", "d"),
        ("<answer>open", "<answer>open"),
        ("", ""),
    ],
)
def test_lmms_eval_takes_the_thought_away(reply, rest):
    assert without_thought(reply) == rest


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C. left", "C"),
        ("I'd say B", "D"),
        ("a chair, so B", "A"),
        ("(b)", "B"),
        ("E", None),
        ("AB", None),
        ("", None),
    ],
)
def test_viewspatial(text, letter):
    assert lone_letter(text) == letter


@pytest.mark.parametrize(
    ("reply", "letter"), [("A\nB", "B"), ("B\n", None), ("B\r", "B"), ("A\nnone", None)]
)
def test_viewspatial_reads_the_last_line(reply, letter):
    assert lone_letter_of_last_line(reply) == letter


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("(c)", "C"),
        ("Answer: A (B)", "B"),  # the order of the phrases, not their place
        ("Ans = 'd'", "D"),
        ("Answer: Because", "B"),
        ("Option East", "E"),
        ("b was correct", "B"),
        ("b iscorrect", "B"),
        ("first C.\nlast", "C"),
        ("D)", "D"),
        (" B ", "B"),
        ("b", "b"),
        ("it is E", "it is E"),
        (" \n", ""),
        ("", ""),
    ],
)
def test_sti_bench(reply, said):
    assert option_phrase(reply) == said


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("yes", "yes"),
        ('{"answer": "yes", "reason": "x"}', "yes"),
        ("{'answer': 'yes', 'reason': 'x'}", "yes"),
        ('{"reason": "x", "answer": "yes"}', 'yes"}'),
        ('{"answer": "yes"}', '{"answer": "yes"}'),  # no reason: the whole reply
        ("answer: 3,\nreason: many", "3"),
        ("answer: 3 reason: many", "3"),
        ("the answer has a reason", ""),
        ('"answer":\n"yes", "reason": 1', ""),  # the line ends
        ("", ""),
    ],
)
def test_ost_bench_field(reply, said):
    assert answer_field(reply) == said


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("3", 3),
        ("3.9", 3),
        ("-2.5", -2),
        ("Three", 3),
        ("network", 2),
        ("weight", 8),
        ("someone", 1),
        ("ten or one", 1),  # the smaller number is looked for first
        ("3 chairs", None),
        ("nan", None),
        ("1e400", None),
        ("", None),
    ],
)
def test_ost_bench_count(said, number):
    assert counted(said) == number


def test_vlmevalkit_counts_need_an_integer():
    assert (counted("3.0", decimals=False), counted("3", decimals=False)) == (None, 3)
    assert counted("three", decimals=False) == 3


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("**b**", "B"),
        ("<answer>J. x</answer>", "J"),
        ("< answer id='1'> c </ answer >", "C"),
        ("so D</think> it is", "D"),
        ("<think>A or B</think>\nC. left", "B"),  # right before the end of the thought
        ("A\nB\nC", "C"),
        ("Option A: left\nOption B: right", None),
        ("A or B", None),
        ("the answer is c", "C"),
        ("\u200bB\ufeff", "B"),
        ("答案：d。", "D"),
        ("答案：d吧", None),
        ("It is D, surely", "D"),
        ("(G)", None),
        ("xB", None),
        ("", None),
    ],
)
def test_vlmevalkit_of_easi(reply, letter):
    assert easi_choice(reply) == letter
