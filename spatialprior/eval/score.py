"""``python -m spatialprior.eval.score``: scores for stored replies, whatever wrote them."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spatialprior.eval.benchmark import Graded
from spatialprior.eval.published.benchmark import PublishedBenchmark
from spatialprior.eval.published.crash import crashed
from spatialprior.eval.published.reading import RecordsError, read_file
from spatialprior.eval.published.rule import Record, Rule, Scored
from spatialprior.eval.published.spec import SpecError
from spatialprior.registry import BENCHMARKS, RegistryError


class ScoreError(ValueError):
    """Replies do not fit their records. One line."""


def score_files(
    benchmark: type[PublishedBenchmark],
    records: Path,
    replies: Path,
    out: Path,
    *,
    aggregates: Path | None = None,
    protocol: str = "official",
    rule: str | None = None,
) -> dict[str, Any]:
    """Score every reply in ``replies`` and write one line each, in their order.

    Args:
        benchmark: Whose records these are.
        records: One record a line in the official schema, with ``id`` (else its line number from 0 is its id).
        replies: Lines ``{"id", "variant", "reply"}``; a variant is one set of replies to the records.
        out: Lines ``{"id", "variant", "score"}``; a score is null where the rule cannot tell.
        aggregates: Also take the benchmark's sums, by variant, and write them here.
        protocol: Whose rule.
        rule: Another rule than the protocol's.

    Returns:
        ``n``, ``unscored`` (reason -> how many), ``notes`` (what the sums lack on this machine) and
        ``aggregates`` (variant -> name -> value; empty where they are not asked for).

    Raises:
        ScoreError: A reply is no reply, or answers a record that is not there.
        RecordsError: A file is missing or broken.
    """
    chosen = rule or benchmark.spec.protocol(protocol).rule
    judge = benchmark.rule_called(chosen)
    known = _by_id(benchmark, read_file(records), records)
    variants: dict[str, list[Scored]] = {}
    unscored: Counter[str] = Counter()
    lines = []
    for number, line in enumerate(read_file(replies), start=1):
        record = _record_of(line, known, f"{replies}, line {number}")
        graded = _graded(judge, record, line["reply"])
        if graded.score is None:
            unscored[graded.unscored or "no reason given"] += 1
        variant = line.get("variant")
        name = variant if isinstance(variant, str) else json.dumps(variant)
        variants.setdefault(name, []).append(Scored(record, line["reply"], graded.score))
        lines.append({"id": line["id"], "variant": variant, "score": graded.score})
    _write(out, (json.dumps(line) + "\n" for line in lines))
    notes: list[str] = list(judge.notes()) if hasattr(judge, "notes") else []
    sums: dict[str, dict[str, float]] = {}
    for name, rows in variants.items():
        if again := len(rows) - len({id(row.record) for row in rows}):
            notes.append(f"variant {name}: {again} replies to records that it has answered already")
        try:
            sums |= {name: judge.aggregates(rows)} if aggregates is not None else {}
        except Exception as error:  # odd records; the scores themselves are written
            notes.append(f"variant {name} cannot be summed up ({type(error).__name__}: {error})")
    summary = {
        "benchmark": benchmark.name,
        "protocol": protocol,
        "rule": chosen,
        "n": len(lines),
        "unscored": dict(unscored),
        "notes": notes,
        "aggregates": sums,
    }
    if aggregates is not None:
        _write(aggregates, [json.dumps(summary, indent=1) + "\n"])
    return summary


def _by_id(
    benchmark: type[PublishedBenchmark], records: Sequence[Record], path: Path
) -> dict[str, Record]:
    known: dict[str, Record] = {}
    for line, record in enumerate(records):
        name = benchmark.record_id(record, line)
        if name in known:
            raise ScoreError(f"{path}: two records have the id {name!r}")
        known[name] = record
    return known


def _record_of(line: Record, known: dict[str, Record], where: str) -> Record:
    if "id" not in line or not isinstance(line.get("reply"), str):
        raise ScoreError(f'{where}: expected {{"id": ..., "variant": ..., "reply": "..."}}')
    name = str(line["id"])
    if name not in known:
        some = ", ".join(list(known)[:5])
        raise ScoreError(
            f"{where}: no record has the id {name!r}; there are {len(known)}"
            + (f" ({some}, ...)" if some else "")
        )
    return known[name]


def _graded(judge: Rule, record: Record, reply: str) -> Graded:
    """One odd record costs its own score, not those of all others."""
    try:
        return judge.grade(record, reply)
    except Exception as error:
        return crashed(error)


def _write(path: Path, lines: Iterator[str] | Sequence[str]) -> None:
    """Whole or not at all."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(aside, "wt", encoding="utf-8") as file:
        file.writelines(lines)
    os.replace(aside, path)


def published(name: str) -> type[PublishedBenchmark]:
    """The published benchmark called ``name``.

    Raises:
        RegistryError: There is none.
        ScoreError: It has no records of its own.
    """
    found: type[Any] = BENCHMARKS.get(name)
    if not issubclass(found, PublishedBenchmark):
        raise ScoreError(f"{name} is no published benchmark: its questions are made by a run")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 2 asked for what does not exist."""
    parser = argparse.ArgumentParser(prog="python -m spatialprior.eval.score", description=__doc__)
    parser.add_argument("--benchmark", required=True, metavar="NAME", help="such as vsi_bench")
    parser.add_argument("--records", required=True, type=Path, help="records, one a line (.gz too)")
    parser.add_argument(
        "--replies", required=True, type=Path, help='lines {"id", "variant", "reply"}'
    )
    parser.add_argument("--out", required=True, type=Path, help='lines {"id", "variant", "score"}')
    parser.add_argument("--aggregates", type=Path, help="the benchmark's sums, by variant, as JSON")
    parser.add_argument("--protocol", default="official", help="official (default), lmms_eval, ...")
    parser.add_argument("--rule", help="another rule than the protocol's, such as saner")
    asked = parser.parse_args(argv)
    try:
        summary = score_files(
            published(asked.benchmark),
            asked.records,
            asked.replies,
            asked.out,
            aggregates=asked.aggregates,
            protocol=asked.protocol,
            rule=asked.rule,
        )
    except (ScoreError, RecordsError, SpecError, RegistryError) as error:
        print(f"spatialprior.eval.score: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"spatialprior.eval.score: cannot write: {error}", file=sys.stderr)
        return 2
    nulls = sum(summary["unscored"].values())
    print(f"{summary['n']} replies scored by {summary['rule']}, {nulls} without a score", end="")
    print("".join(f"; {count} x {why}" for why, count in summary["unscored"].items()))
    for note in summary["notes"]:
        print(f"note: {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
