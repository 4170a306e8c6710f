from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spatialprior.eval.cards.card import ResultCard, read_card
from spatialprior.eval.cards.markup import FORMATS
from spatialprior.eval.cards.reference import (
    PublishedError,
    Reference,
    papers,
    parse,
    references,
)
from spatialprior.eval.cards.table import Cell, Line, Table, tables
from spatialprior.eval.published.vsi_bench import VsiBench
from spatialprior.eval.table import main

Make = Callable[..., Path]
HOSTILE = r"""a|b <script>alert("x")</script> & 50% of #1_x ~^ {y} \$ [z] *s* `t`"""


def card_of(folder: Path) -> ResultCard:
    card, _ = read_card(folder / "card.json")
    return card


def published(**changes: object) -> Reference:
    values = {
        "paper": "Paper",
        "reference": "arXiv",
        "benchmark": "vsi_bench",
        "source": "table 1",
        "mark": "N",
        "certainty": "second-hand",
        "columns": {"object_counting": 1, "overall": 0.01, "elsewhere": 1},
        "rows": {"their model": [52.5, 50.5, None]},
        "split": "full",
    }
    return Reference(**{**values, **changes})


def test_one_setting(vsi: Make) -> None:
    (table,) = tables([card_of(vsi())], [published()])
    assert table.title == "vsi_bench, version 1, split full, protocol official, rule official"
    names = ("overall", "micro", "macro", "object_counting", "route_planning", "elsewhere")
    assert table.columns == (*names, "parse failures", "unscored", "errors")
    ours, theirs = table.lines
    assert ours.label.text == "gasp_qwen/today-1 after (no prior)" and not ours.theirs
    cells = dict(zip(table.columns, (cell.text for cell in ours.cells), strict=True))
    assert cells["object_counting"].startswith("52.5 [") and cells["object_counting"].endswith(
        "(n 4)"
    )
    assert cells["overall"].startswith("0.5125 [") and cells["overall"].endswith("(n 8)")
    assert cells["micro"].startswith("51.2 [")
    assert cells["elsewhere"] == "-" and cells["parse failures"] == "25.0 %"
    assert theirs.theirs and theirs.label.text == "Paper (theirs): their model"
    assert [cell.text for cell in theirs.cells] == ["0.505", "-", "-", "52.5", *["-"] * 5]
    assert "theirs, not measured here; second-hand [N]; table 1" in theirs.label.notes[0]
    assert any("thinking-in-space" in note for note in table.notes)


def test_an_ablation_stands_below_the_whole_model(vsi: Make) -> None:
    whole = card_of(vsi("a"))
    protocol = {**whole.protocol, "ablation": "blind", "deviations": ["shown no views at all"]}
    blind = dataclasses.replace(whole, protocol=protocol, run={**whole.run, "arm": "ablate.blind"})
    (table,) = tables([blind, whole])
    first, second = table.lines
    assert "ablate.blind" not in first.label.text and "ablate.blind" in second.label.text
    assert "deviates from the protocol: shown no views at all" in second.label.notes


def test_protocols_never_share_a_column(vsi: Make, sides: Make) -> None:
    plain, other = card_of(vsi("a")), card_of(vsi("b", {"frames": 8}))
    saner = dataclasses.replace(plain, protocol={**plain.protocol, "rule": "saner"})
    lenient = dataclasses.replace(plain, protocol={**plain.protocol, "name": "lmms_eval"})
    newer = dataclasses.replace(plain, benchmark={**plain.benchmark, "version": "2"})
    short = dataclasses.replace(plain, data={**plain.data, "split": "debiased"})
    found = tables([plain, other, saner, lenient, newer, short, card_of(sides())], [published()])
    overview, *each = found
    assert len(overview.columns) == 6 == len(each)
    # The very same model: one row, but a second one for the scoring that deviates.
    filled = [sum(cell.text != "-" for cell in line.cells) for line in overview.lines]
    assert filled == [6, 1]
    assert [len([line for line in table.lines if not line.theirs]) for table in each] == [
        2,
        1,
        1,
        1,
        1,
        1,
    ]
    deviating = each[0].lines[1]
    assert "deviates from the protocol: frames is 8, not 32" in deviating.label.notes
    # Published rows are of the full split; those of a rule of ours are nobody's.
    theirs = [any(line.theirs for line in table.lines) for table in each]
    assert theirs == [True, False, True, True, False, False]


def test_incomparable_numbers_have_a_table_of_their_own(vsi: Make) -> None:
    ref = published(comparable=False, caveats=("only some questions",))
    ours, theirs = tables([card_of(vsi())], [ref, published(benchmark="blink")])
    assert not any(line.theirs for line in ours.lines)
    assert "not comparable" in theirs.title and theirs.lines[0].cells[0].text == "52.5"
    assert "Paper: only some questions" in theirs.lines[0].label.notes


def test_what_a_row_says_of_its_model(vsi: Make) -> None:
    plain = card_of(vsi(commit="0123456789abcdef-dirty", at_inference={"vega3d": {"layer": 3}}))
    card = dataclasses.replace(
        plain,
        model={**plain.model, "priors": {"gasp": {}, "mine": {}}},
        implementation={"gasp": "GASP: a re-implementation. Not verified", "mine": "a plug-in"},
        scores={**plain.scores, "unscored": {"judge": 2}, "errors": 1},
        data={**plain.data, "records_sha256": "other"},
    )
    (table,) = tables([plain, card])
    label = table.lines[1].label
    assert label.text.endswith("after (gasp, re-implementation; mine)")
    for told in (
        "GASP: a re-implementation. Not verified",
        "the working tree had local changes (on commit 0123456789ab)",
        'changed at inference: {"vega3d": {"layer": 3}}',
        "2 of 8 replies have no score (judge) and count as 0",
        "1 of 8 questions failed",
        "other questions than the first row's",
    ):
        assert told in label.notes


@pytest.fixture()
def hostile() -> Table:
    line = Line(Cell(HOSTILE, (HOSTILE,)), (Cell(HOSTILE),))
    theirs = Line(Cell("[first", (HOSTILE, "more\nlines")), (Cell("*2"),), theirs=True)
    return Table(HOSTILE, (HOSTILE,), (line, theirs), (HOSTILE,))


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_of_hostile_names(hostile: Table) -> None:
    page = FORMATS["html"]([hostile])
    parser = Texts()
    parser.feed(page)
    assert "script" not in parser.tags and parser.texts.count(HOSTILE) == 4
    assert page.count('class="theirs"') == 2 and "http" not in page


def test_markdown_of_hostile_names(hostile: Table) -> None:
    text = FORMATS["markdown"]([hostile])
    assert "<script" not in text and r"a\|b" in text and "50%" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bare = [row.replace(r"\|", "").count("|") for row in rows]
    assert bare == [3] * 5  # two cells each, whatever the names
    assert r"\[z\] \*s\* \`t\`" in text and "&amp;" in text
    assert "<sup>2</sup> more lines" in text


def test_latex_of_hostile_names(hostile: Table) -> None:
    text = FORMATS["latex"]([hostile])
    escaped = r"a\textbar{}b \textless{}script\textgreater{}alert(''x'')"
    assert escaped in text and r"\& 50\% of \#1\_x \textasciitilde{}\textasciicircum{}" in text
    assert r"\{y\} \textbackslash{}\$ {[}z{]} {*}s{*}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    # After the end of a row, a bracket or a star would be its argument.
    assert not any(row.startswith(("[", "*")) for row in rows) and len(rows) == 4
    assert all(row.replace(r"\&", "").count("&") == 1 for row in rows if "multicolumn" not in row)
    plain = text
    for mark in (r"\%", r"\#", r"\_"):
        plain = plain.replace(mark, "")
    assert not set("%#_") & set(plain)


def test_published_files() -> None:
    assert papers() == ["g2vlm", "gasp", "vega3d"]
    every = references(papers())
    assert {ref.paper for ref in every} == {"GASP", "VEGA-3D", "G²VLM"}
    for ref in every:
        assert ref.reference.startswith("arXiv ") and ref.source.startswith("fact sheet ")
        assert ref.certainty and ref.rows and ref.columns
        for numbers in ref.rows.values():
            assert any(number is not None for number in numbers)
            assert all(number is None or 0 < number < 110 for number in numbers)
    # Second-hand numbers stay marked so.
    assert {ref.mark for ref in every if "ablations of LLaVA" in ref.source} == {"N"}
    gasp = {
        (r.benchmark, name): v for r in every if r.paper == "GASP" for name, v in r.rows.items()
    }
    assert gasp["vsi_bench", "LLaVA-NeXT-Video + GASP"] == [52.5, 32.5, 41.2, 22.0]


def test_published_columns_are_ours() -> None:
    tasks = VsiBench.spec.data.splits["full"].tasks
    sums = {"overall", "object_rel_direction_accuracy", "published average"}
    for ref in references(papers()):
        if ref.benchmark == "vsi_bench":
            assert ref.columns.keys() <= tasks.keys() | sums


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.replace("mark: P", "mark: Z"), "mark 'Z' is not explained"),
        (lambda t: t.replace("[1]", "[1, 2]"), "row 'a': 2 values for 1 columns"),
        (lambda t: t.replace("source:", "surce:"), "unknown field 'surce'; did you mean source?"),
        (lambda t: t.replace("marks:", "mark:"), "published numbers of x: 'marks'"),
        (lambda t: t.replace("    columns: {b: 1}\n", ""), "columns"),
        (lambda t: t + "\n  - {", "published numbers of x: "),
    ],
)
def test_broken_published_file(change: Callable[[str], str], told: str) -> None:
    text = (
        "paper: P\nreference: R\nmarks: {P: stated}\ntables:\n  - benchmark: b\n    source: s\n"
        "    mark: P\n    columns: {b: 1}\n    rows: {a: [1]}"
    )
    assert len(parse(text, "x")) == 1
    with pytest.raises(PublishedError) as error:
        parse(change(text), "x")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_command_line(
    vsi: Make, sides: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vsi()
    sides()
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("### Headline scores") and "GASP (theirs): Qwen2.5-VL + GASP" in text
    assert main([str(tmp_path), "--benchmark", "sides", "--published", ""]) == 0
    text = capsys.readouterr().out
    assert (
        "vsi" not in text and "theirs" not in text and "### sides, version 1, protocol own" in text
    )
    out = tmp_path / "page.html"
    assert main([str(tmp_path), "--format", "html", "--out", str(out), "--published", "gasp"]) == 0
    page = out.read_text()
    assert page.startswith("<!doctype html>") and "VEGA" not in page and "GASP" in page
    for argv, told in (
        ([str(tmp_path), "--benchmark", "side"], "did you mean sides?"),
        ([str(tmp_path), "--published", "gap"], "did you mean gasp?"),
        ([str(tmp_path / "none")], "is no card and no folder"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1


def test_changed_card_is_not_tabulated(vsi: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = vsi() / "card.json"
    content = json.loads(path.read_text())
    content["scores"]["tasks"]["route_planning"]["score"] = 1.0
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 2
    assert "was changed after it was written" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(
    vsi: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(vsi()), f"--out={tmp_path}/file/scores.md"]) == 2
    error = capsys.readouterr().err
    assert "cannot write: " in error and error.count("\n") == 1
