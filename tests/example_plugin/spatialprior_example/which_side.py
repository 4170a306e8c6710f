"""A published benchmark from outside: which side of a picture an object is on."""

from __future__ import annotations

from collections.abc import Sequence

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.parsers.plain_choice import plain_choice
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.media import Media
from spatialprior.eval.published.rule import Record, Scored


class Official:
    """As its authors score: the first character, whatever its case."""

    def grade(self, record: Record, reply: str) -> Graded:
        letter = reply[:1].upper() or None
        return Graded(float(letter == record["answer"]), letter)

    def aggregates(self, rows: Sequence[Scored]) -> dict[str, float]:
        return {"accuracy": sum(row.score or 0.0 for row in rows) / len(rows)}


class Saner(Official):
    """What a careful reader takes the reply for."""

    def grade(self, record: Record, reply: str) -> Graded:
        letter = plain_choice(reply, {"A": record["A"], "B": record["B"]})
        return Graded(float(letter == record["answer"]), letter)


class WhichSide(PublishedBenchmark):
    """Made up for this example."""

    rules = {"official": Official(), "saner": Saner()}  # noqa: RUF012

    def task(self, record: Record) -> str:
        return str(record["task"])

    def prompt(self, record: Record) -> str:
        return f"{record['question']}\nA. {record['A']}\nB. {record['B']}\nAnswer with a letter."

    def media(self, record: Record) -> Media:
        return Media(key=record["image"], pictures=(record["image"],))

    def answer(self, record: Record) -> str:
        return str(record["answer"])

    def options(self, record: Record) -> tuple[str, ...]:
        return (record["A"], record["B"])
