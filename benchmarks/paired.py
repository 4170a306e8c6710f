"""Interleaved timing: two or more pieces of work take turns, and ratios are taken within a round.

On a shared machine speed drifts by tens of percent within seconds. Neighbours in time drift together, so the
ratio within a round is steady where the times are not. The order rotates from round to round, so that none
always runs in another's wake.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"

_BOOTSTRAP_DRAWS = 2000


class Timings:
    """Wall-clock and processor seconds of every round.

    Attributes:
        wall, cpu: Name -> seconds, one entry a round. Processor time does not count waiting for other
            processes; of several threads it is the sum.
    """

    def __init__(self, wall: Mapping[str, list[float]], cpu: Mapping[str, list[float]]) -> None:
        self.wall = {name: np.array(values) for name, values in wall.items()}
        self.cpu = {name: np.array(values) for name, values in cpu.items()}

    def case(self, over: str, under: str, limit: tuple[str, float]) -> dict[str, Any]:
        """How much longer ``over`` takes than ``under``, beside its target.

        Args:
            over, under: Names of two pieces of work.
            limit: ``("<=", 1.05)`` or ``(">=", 20)``, for the median of the wall-clock ratio.
        """
        ratio = self.wall[over] / self.wall[under]
        sign, target = limit
        median = float(np.median(ratio))
        return {
            "ratio": _spread(ratio),
            "cpu_ratio": _spread(self.cpu[over] / self.cpu[under]),
            "milliseconds": {
                name: {
                    "median": float(np.median(self.wall[name]) * 1e3),
                    "min": float(self.wall[name].min() * 1e3),
                }
                for name in (over, under)
            },
            "target": f"{sign} {target:g}",
            "met": median <= target if sign == "<=" else median >= target,
        }


def interleave(works: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 3) -> Timings:
    """Run every piece of work once a round, in rotating order, after ``warm_up`` rounds that do not count."""
    names = list(works)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()  # a collection would land on whoever runs at the time
    try:
        for number in range(-warm_up, rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                began, began_cpu = time.perf_counter(), time.process_time()
                works[name]()
                seconds, seconds_cpu = time.perf_counter() - began, time.process_time() - began_cpu
                if number >= 0:
                    wall[name].append(seconds)
                    cpu[name].append(seconds_cpu)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return Timings(wall, cpu)


def _spread(ratio: NDArray[np.float64]) -> dict[str, Any]:
    """Median with the spread of the rounds (p10, p90) and a bootstrap interval of the median itself."""
    rng = np.random.default_rng(0)
    draws = np.median(rng.choice(ratio, size=(_BOOTSTRAP_DRAWS, len(ratio))), axis=1)
    p10, median, p90 = np.quantile(ratio, [0.1, 0.5, 0.9])
    return {
        "median": float(median),
        "p10": float(p10),
        "p90": float(p90),
        "ci95": [float(bound) for bound in np.quantile(draws, [0.025, 0.975])],
    }


def measured(sides: Mapping[str, float], unit: str, limit: tuple[str, float]) -> dict[str, Any]:
    """A case of one reading a side (memory, a count): the first over the second, beside its target."""
    over, under = sides.values()
    sign, target = limit
    ratio = over / under
    return {
        "value": ratio,
        "unit": unit,
        "sides": dict(sides),
        "target": f"{sign} {target:g}",
        "met": ratio <= target if sign == "<=" else ratio >= target,
    }


def parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """Options that all benchmarks share."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument(
        "--out", type=Path, help="JSON file (benchmarks/results/NAME.json to keep it)"
    )
    return made


def finish(
    name: str, args: argparse.Namespace, cases: Mapping[str, Any], setting: Mapping[str, Any]
) -> int:
    """Print the report, write it where ``--out`` says, and return 1 where a target was missed."""
    report = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
        "setting": dict(setting),
        "cases": dict(cases),
        "hardware": _hardware(),
    }
    text = json.dumps(report, indent=2)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        partial = args.out.with_name(f"{args.out.name}.{os.getpid()}.tmp")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, args.out)
    print(text)
    return 0 if all(case["met"] for case in cases.values()) else 1


def _hardware() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
