"""``python -m spatialprior.eval.lmms.compare``: one set of replies, scored by lmms-eval and by us.

``--benchmark vsi_bench --tasks vsibench --data FOLDER --replies replies.jsonl``. lmms-eval gets the
replies from our replay model; our rule of the benchmark gets each with the same document.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.run import LmmsItem, LmmsResult, simple_evaluate
from spatialprior.eval.published.rule import Rule
from spatialprior.eval.published.spec import SpecError
from spatialprior.registry import RegistryError
from spatialprior.report.schema import write_text

_SHOWN = 20  # differences that are printed; all are in the file


@dataclass(frozen=True)
class Compared:
    """One item under both scorers.

    Attributes:
        task, doc_id, reply: Which.
        theirs, ours: Scores in 0 to 1; ``None`` where a scorer has none.
        unscored: Why ours has none.
    """

    task: str
    doc_id: int
    reply: str
    theirs: float | None
    ours: float | None
    unscored: str | None = None

    @property
    def equal(self) -> bool:
        """Whether both say the same (to 1e-9: sums of floats)."""
        if self.theirs is None or self.ours is None:
            return self.theirs is self.ours
        return math.isclose(self.theirs, self.ours, abs_tol=1e-9)


def compared(items: Sequence[LmmsItem], rule: Rule) -> list[Compared]:
    """Both scores of every item."""
    rows = []
    for item in items:
        graded = rule.grade(item.document, item.reply)
        rows.append(
            Compared(item.task, item.doc_id, item.reply, item.score, graded.score, graded.unscored)
        )
    return rows


def table(rows: Sequence[Compared]) -> str:
    """Items, means and differences of each task, as Markdown, and the first items that differ."""
    lines = ["| task | items | lmms-eval | ours | differing |", "|---|---|---|---|---|"]
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        means = [_mean([getattr(row, who) for row in of_task]) for who in ("theirs", "ours")]
        unlike = sum(not row.equal for row in of_task)
        lines.append(f"| {task} | {len(of_task)} | {means[0]} | {means[1]} | {unlike} |")
    unequal = [row for row in rows if not row.equal]
    if unequal:
        lines += ["", "| task | document | lmms-eval | ours | reply |", "|---|---|---|---|---|"]
    for row in unequal[:_SHOWN]:
        reply = json.dumps(row.reply, ensure_ascii=False)[:80].replace("|", "\\|")
        ours = row.unscored or row.ours
        lines.append(f"| {row.task} | {row.doc_id} | {row.theirs} | {ours} | {reply} |")
    return "\n".join(lines)


def replayed(
    replies: Path, tasks: Sequence[str], data: Path, key: str | None, limit: int | None
) -> LmmsResult:
    """Stored replies under lmms-eval."""
    from spatialprior.eval.lmms.replay import ReplayLmms

    return simple_evaluate(ReplayLmms(str(replies), key), tasks, data, limit=limit)


def _mean(scores: Sequence[float | None]) -> str:
    known = [score for score in scores if score is not None]
    return f"{sum(known) / len(known):.4f}" if known else "none"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 all equal, 1 some differ, 2 asked for what does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m spatialprior.eval.lmms.compare", description=__doc__
    )
    parser.add_argument("--benchmark", required=True, help="ours, such as vsi_bench")
    parser.add_argument("--tasks", required=True, help="of lmms-eval, separated by commas")
    parser.add_argument("--data", required=True, type=Path, help="folder of snapshots and media")
    parser.add_argument("--replies", required=True, type=Path, help="stored replies (.jsonl)")
    parser.add_argument("--rule", default="lmms_eval", help="ours (default: lmms_eval)")
    parser.add_argument(
        "--key", help="column by which replies name documents, or row (default: id or idx)"
    )
    parser.add_argument("--limit", type=int, help="only so many documents of each task")
    parser.add_argument("--out", type=Path, help="write every item here, as JSON lines")
    asked = parser.parse_args(argv)
    from spatialprior.eval.score import ScoreError, published

    try:
        rule = published(asked.benchmark).rule_called(asked.rule)
        result = replayed(asked.replies, asked.tasks.split(","), asked.data, asked.key, asked.limit)
    except (LmmsError, RegistryError, ScoreError, SpecError) as error:
        print(f"spatialprior.eval.lmms.compare: {error}", file=sys.stderr)
        return 2
    rows = compared(result.items, rule)
    if asked.out is not None:
        lines: list[Any] = [{**asdict(row), "equal": row.equal} for row in rows]
        write_text(asked.out, "".join(json.dumps(line) + "\n" for line in lines))
    print(table(rows))
    equal = all(row.equal for row in rows)
    print(f"\nlmms-eval {result.release}, rule {asked.rule}: {'equal' if equal else 'NOT equal'}")
    for reason in result.mended:
        print(f"mended: {reason}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
