"""A table as Markdown, LaTeX or HTML. Everything in it is escaped: names come from files of others."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spatialprior.eval.cards.reference import THEIRS
from spatialprior.eval.cards.table import Cell, Line, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # A row that begins with one of these would be read as an argument of the row before it.
    **{mark: f"{{{mark}}}" for mark in "[]*"},
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {m: f"\\{m}" for m in r"\`*_[]|~#"}


@dataclass
class Footnotes:
    """Notes of a table, numbered as they first come up."""

    known: dict[str, int] = field(default_factory=dict)

    def numbers(self, notes: Sequence[str]) -> list[int]:
        """The numbers of these notes."""
        return [self.known.setdefault(note, len(self.known) + 1) for note in notes]


def markdown(table: Table) -> str:
    """A Markdown table with its notes as a list."""
    notes = Footnotes()

    def shown(cell: Cell) -> str:
        marks = ",".join(map(str, notes.numbers(cell.notes)))
        return _markdown(cell.text) + (f" <sup>{marks}</sup>" if marks else "")

    def row(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    width = len(table.columns) + 1
    lines = [f"### {_markdown(table.title)}", "", row(["", *map(_markdown, table.columns)])]
    lines.append(row(["---"] * width))
    for line, first in _with_break(table.lines):
        if first:
            lines.append(row([f"*{THEIRS}:*", *[""] * (width - 1)]))
        lines.append(row([shown(line.label), *map(shown, line.cells)]))
    lines += ["", *(f"{_markdown(note)}.  " for note in table.notes)]
    lines += [f"<sup>{number}</sup> {_markdown(note)}.  " for note, number in notes.known.items()]
    return "\n".join(lines).rstrip() + "\n"


def latex(table: Table) -> str:
    """A ``table`` that needs no package; wide ones may need a smaller font or a turned page."""
    notes = Footnotes()

    def shown(cell: Cell) -> str:
        marks = ",".join(map(str, notes.numbers(cell.notes)))
        return _latex(cell.text) + (f"$^{{{marks}}}$" if marks else "")

    width = len(table.columns) + 1
    lines = [r"\begin{table}", rf"\caption{{{_latex(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\hline"]
    lines += [" & ".join(["", *map(_latex, table.columns)]) + r" \\", r"\hline"]
    for line, first in _with_break(table.lines):
        if first:
            lines += [r"\hline", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_latex(THEIRS)}}}}} \\"]
        lines.append(" & ".join([shown(line.label), *map(shown, line.cells)]) + r" \\")
    lines += [r"\hline", r"\end{tabular}", ""]
    lines += [rf"\noindent {_latex(note)}.\par" for note in table.notes]
    lines += [rf"\noindent $^{{{i}}}$ {_latex(note)}.\par" for note, i in notes.known.items()]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def page(tables: Sequence[Table]) -> str:
    """All tables on one page that requests nothing."""
    style = (
        "body{font:14px/1.4 sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
        "td,th{border-bottom:1px solid #ccc;padding:.3em .6em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}caption{text-align:left;font-weight:bold}"
        ".theirs td{color:#666;font-style:italic}"
    )
    parts = "\n".join(map(_section, tables))
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Scores</title>'
        f"<style>{style}</style></head>\n<body>\n{parts}</body>\n</html>\n"
    )


def _section(table: Table) -> str:
    notes = Footnotes()

    def shown(cell: Cell) -> str:
        marks = ",".join(map(str, notes.numbers(cell.notes)))
        return html.escape(cell.text) + (f"<sup>{marks}</sup>" if marks else "")

    width = len(table.columns) + 1
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("", *table.columns))
    lines = [
        f"<table><caption>{html.escape(table.title)}</caption>",
        f"<thead><tr>{head}</tr></thead>",
    ]
    lines.append("<tbody>")
    for line, first in _with_break(table.lines):
        if first:
            lines.append(
                f'<tr class="theirs"><td colspan="{width}">{html.escape(THEIRS)}</td></tr>'
            )
        cells = "".join(f"<td>{shown(cell)}</td>" for cell in (line.label, *line.cells))
        lines.append(f'<tr class="theirs">{cells}</tr>' if line.theirs else f"<tr>{cells}</tr>")
    lines.append("</tbody></table>")
    lines += [f"<p>{html.escape(note)}.</p>" for note in table.notes]
    lines += [f"<p><sup>{i}</sup> {html.escape(note)}.</p>" for note, i in notes.known.items()]
    return "\n".join(lines) + "\n"


def _with_break(lines: Sequence[Line]) -> list[tuple[Line, bool]]:
    """Every row, and whether it is the first published one."""
    starts = next((i for i, line in enumerate(lines) if line.theirs), None)
    return [(line, index == starts) for index, line in enumerate(lines)]


def _markdown(text: str) -> str:
    return _replaced(text, _MARKDOWN)


def _latex(text: str) -> str:
    return _replaced(text, _LATEX)


def _replaced(text: str, marks: dict[str, str]) -> str:
    return "".join(marks.get(character, character) for character in re.sub(r"\s+", " ", text))


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": lambda tables: "\n".join(map(markdown, tables)),
    "latex": lambda tables: "\n".join(map(latex, tables)),
    "html": page,
}
"""Name -> all tables as one text."""
