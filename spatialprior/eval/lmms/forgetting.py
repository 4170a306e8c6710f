"""``python -m spatialprior.eval.lmms.forgetting``: what a training forgot of general questions.

``--export A --base B --tasks videomme,tempcompass_mc,nextqa_mc_test --data FOLDER --out OUT`` scores the
export and the checkpoint that its training started from with lmms-eval, on the same documents, and writes the
paired differences with their 95 % intervals (``forgetting.json``, ``forgetting.md``).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialprior.core.intervals import Interval, paired_interval
from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.eval.lmms.loading import settings_of
from spatialprior.eval.lmms.run import LmmsItem, LmmsResult, simple_evaluate
from spatialprior.eval.lmms.tasks import local_tasks
from spatialprior.export import ExportError
from spatialprior.report.schema import write_text

TASKS = ("videomme", "tempcompass_mc", "nextqa_mc_test")
_MEDIA = ("videoID", "video_id", "video", "scene_name", "video_name", "image_path")
"""Columns that name what a document shows: documents about one video are not independent."""


@dataclass(frozen=True)
class Forgetting:
    """One task.

    Attributes:
        export, base: Mean scores.
        difference: Export less base, paired by document, clustered by video.
        judged: Replies (of export and base) that lmms-eval would ask a paid judge about; they score 0.
        unscored: Documents without a score of one of the two, left out.
    """

    export: float
    base: float
    difference: Interval
    judged: tuple[int, int]
    unscored: int

    @property
    def verdict(self) -> str:
        """In words; a difference whose interval holds 0 is none that can be told."""
        gap = self.difference
        if gap.bounds is None:
            return "too few videos to tell"
        return (
            ("forgot" if gap.high < 0 else "gained") if gap.excludes_zero else "no difference told"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        gap = self.difference
        return {
            "export": self.export,
            "base": self.base,
            "difference": gap.mean,
            "ci95": gap.bounds,
            "n": gap.n,
            "clusters": gap.num_clusters,
            "judged": {"export": self.judged[0], "base": self.judged[1]},
            "unscored": self.unscored,
            "verdict": self.verdict,
        }


def forgetting(export: Sequence[LmmsItem], base: Sequence[LmmsItem]) -> dict[str, Forgetting]:
    """Task -> what was forgotten, and ``all`` over the documents of all tasks where there are several.

    Raises:
        LmmsError: The two were not asked the same.
    """
    theirs = {(item.task, item.doc_id): item for item in base}
    if [(item.task, item.doc_id) for item in export] != list(theirs):
        raise LmmsError(
            "the export and its base were asked different documents; use the same --limit"
        )
    pairs = [(item, theirs[item.task, item.doc_id]) for item in export]
    names = list(dict.fromkeys(item.task for item in export))
    found = {name: _of([pair for pair in pairs if pair[0].task == name]) for name in names}
    return {**found, "all": _of(pairs)} if len(names) > 1 else found


def shown(item: LmmsItem) -> str:
    """What a document shows, by the first column that names it; else the document itself."""
    for column in _MEDIA:
        if isinstance(item.document.get(column), (str, int)):
            return f"{item.task}/{item.document[column]}"
    return f"{item.task}/{item.doc_id}"


def _of(pairs: Sequence[tuple[LmmsItem, LmmsItem]]) -> Forgetting:
    scored = [(a, b) for a, b in pairs if a.score is not None and b.score is not None]
    ours, theirs = ([pair[k].score or 0.0 for pair in scored] for k in (0, 1))
    count = max(len(scored), 1)
    return Forgetting(
        export=sum(ours) / count,
        base=sum(theirs) / count,
        difference=paired_interval(ours, theirs, [shown(a) for a, _ in scored]),
        judged=(sum(a.judged for a, _ in pairs), sum(b.judged for _, b in pairs)),
        unscored=len(pairs) - len(scored),
    )


def markdown(found: Mapping[str, Forgetting], about: Mapping[str, Any]) -> str:
    """A table with what it rests on."""
    lines = [
        "# What the training forgot",
        "",
        "| task | documents | videos | base | export | difference | 95 % | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        gap = row.difference
        bounds = "unknown" if gap.bounds is None else f"{gap.low:+.3f} to {gap.high:+.3f}"
        lines.append(
            f"| {name} | {gap.n} | {gap.num_clusters} | {row.base:.3f} | {row.export:.3f} | "
            f"{gap.mean:+.3f} | {bounds} | {row.verdict} |"
        )
    judged = sum(sum(row.judged) for name, row in found.items() if name != "all")
    lines += [
        "",
        f"Scored by lmms-eval {about['lmms_eval']}; differences are paired by document and clustered by video.",
    ]
    if judged:
        lines.append(
            f"{judged} replies were read by none of its rules: it would ask a paid judge, here they score 0."
        )
    lines += [f"Mended in lmms-eval: {reason}." for reason in about["mended"]]
    return "\n".join(lines) + "\n"


def check(
    export: Path,
    base: Path,
    tasks: Sequence[str],
    data: Path,
    out: Path,
    *,
    limit: int | None = None,
    **options: Any,
) -> dict[str, Forgetting]:
    """Score both and write ``forgetting.json`` and ``forgetting.md`` to ``out``.

    Args:
        export: What a run exported.
        base: What it started from: an export, or a plain checkpoint, which is then read with the export's
            settings of the backbone.
        tasks: Of lmms-eval.
        data: Local snapshots and media.
        out: Where to write.
        limit: Only so many documents of each task, the first ones.
        options: Of :class:`~spatialprior.eval.lmms.model.SpatialPriorLmms` (``batch_size``, ``frames``, ...).

    Raises:
        LmmsError: lmms-eval, a task or its data is not there.
        ExportError: A folder is not what its manifest says.
    """
    with tempfile.TemporaryDirectory(prefix="spatialprior-lmms-") as work:
        copied = local_tasks(tasks, data, Path(work))
        from spatialprior.eval.lmms.model import SpatialPriorLmms

        results: list[LmmsResult] = []
        for folder in (export, base):
            model = SpatialPriorLmms(folder, settings=settings_of(export), **options)
            results.append(simple_evaluate(model, copied, limit=limit))
    found = forgetting(results[0].items, results[1].items)
    about = {
        "export": str(export),
        "base": str(base),
        "lmms_eval": results[0].release,
        "mended": list(copied.mended),
        "limit": limit,
        "options": {name: value for name, value in options.items() if value is not None},
    }
    report = {
        **about,
        "tasks": {name: row.to_dict() for name, row in found.items()},
        "aggregates": {"export": results[0].aggregates, "base": results[1].aggregates},
    }
    write_text(out / "forgetting.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "forgetting.md", markdown(found, about))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 2 asked for what does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m spatialprior.eval.lmms.forgetting", description=__doc__
    )
    parser.add_argument("--export", required=True, type=Path, help="what a run exported")
    parser.add_argument("--base", required=True, type=Path, help="what it started from")
    parser.add_argument(
        "--tasks", default=",".join(TASKS), help="of lmms-eval, separated by commas"
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of snapshots and media")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for forgetting.json and .md"
    )
    parser.add_argument("--limit", type=int, help="only so many documents of each task")
    parser.add_argument("--batch-size", type=int, default=8, help="questions answered together")
    parser.add_argument("--frames", type=int, default=32, help="of a video")
    parser.add_argument("--device", help="by default a GPU where there is one")
    asked = parser.parse_args(argv)
    try:
        check(
            asked.export,
            asked.base,
            asked.tasks.split(","),
            asked.data,
            asked.out,
            limit=asked.limit,
            batch_size=asked.batch_size,
            frames=asked.frames,
            device=asked.device,
        )
    except (LmmsError, ExportError) as error:
        print(f"spatialprior.eval.lmms.forgetting: {error}", file=sys.stderr)
        return 2
    print((asked.out / "forgetting.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
