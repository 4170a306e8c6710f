"""Write the last measured table of ``benchmarks/README.md`` from ``benchmarks/results/*.json``.

python benchmarks/table.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
BEGIN, END = "<!-- measured: benchmarks/table.py writes this -->", "<!-- end -->"


def rows(report: dict[str, Any]) -> list[str]:
    """One line of the table for each case of a report."""
    lines = []
    for name, case in report["cases"].items():
        target = case["target"].replace("<=", "≤").replace(">=", "≥")
        met = "yes" if case["met"] else "**no**"
        if "value" in case:
            over, under = case["sides"].values()
            sides = f"{over:.3g} / {under:.3g} {case['unit']}"
            lines.append(
                f"| {name} | {target} | **{case['value']:.3g}** | | | | {sides} | 1 | {met} |"
            )
            continue
        wall, cpu = case["ratio"], case["cpu_ratio"]
        over, under = (case["milliseconds"][key]["median"] for key in case["milliseconds"])
        lines.append(
            f"| {name} | {target} | **{wall['median']:.3g}** "
            f"| {wall['p10']:.3g} – {wall['p90']:.3g} | {wall['ci95'][0]:.3g} – {wall['ci95'][1]:.3g} "
            f"| {cpu['median']:.3g} | {over:.3g} / {under:.3g} | {report['rounds']} | "
            f"{met} |"
        )
    return lines


def table() -> str:
    """The whole table, with where it was measured."""
    reports = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
    lines = [
        "| | target | ratio | p10 – p90 | 95 % of the median | by processor time | ms | rounds | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    where = {}
    for report in reports:
        lines += rows(report)
        hardware = report["hardware"]
        place = f"{hardware['cpu']}, {hardware['cores']} cores, torch {hardware['torch']}"
        where.setdefault((place, report["date"]), []).append(
            f"{report['benchmark']} (load {hardware['load_average']})"
        )
    notes = [f"{date}, {place}: {', '.join(names)}." for (place, date), names in where.items()]
    return "\n".join([*lines, "", *notes])


def main() -> int:
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    fresh = f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END, 1)[1]}"
    if "--check" in sys.argv[1:]:
        return int(fresh != text)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
