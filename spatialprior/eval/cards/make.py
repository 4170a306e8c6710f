"""From a scoring to its card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import spatialprior
from spatialprior.eval.benchmark import Benchmark
from spatialprior.eval.cards.card import ResultCard
from spatialprior.eval.cards.figures import figures
from spatialprior.eval.cards.labels import implementation
from spatialprior.eval.cards.stored import records_hash
from spatialprior.eval.replies import REPLIES
from spatialprior.eval.result import EvalResult
from spatialprior.export.manifest import MANIFEST, file_hash, read_manifest
from spatialprior.registry import BENCHMARKS

OWN = "own"
"""Name of the protocol of a benchmark that has one only, and no name for it."""

_PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class Circumstances:
    """What a scoring itself does not know.

    Attributes:
        recipe, folder, arm: Of the run.
        seed: Of the run.
        base: The backbone before training: ``kind`` and where its weights came from.
        commit: Of the code, ``-dirty`` with local changes; ``None`` outside of git.
        hardware: What it ran on.
        devices: How many answered together.
    """

    recipe: str
    folder: str
    arm: str
    seed: int
    base: Mapping[str, Any]
    commit: str | None
    hardware: Mapping[str, Any]
    devices: int = 1


def write_card(
    result: EvalResult, benchmark: Benchmark, export: Path, out: Path, about: Circumstances
) -> ResultCard:
    """Describe a finished scoring, whose replies lie in ``out``, and write ``out/card.json``.

    Args:
        result: The scoring.
        benchmark: What was asked.
        export: The folder of the model that answered.
        out: Where the replies are.
        about: The run.
    """
    # As they lie on disk, so that a verification sees the very same values.
    rows = json.loads(json.dumps(result.replies))
    sha256 = file_hash(out / REPLIES)
    protocol = protocol_of(benchmark)
    card = ResultCard(
        benchmark={
            "name": BENCHMARKS.name_of(type(benchmark)) or benchmark.name,
            "version": benchmark.version,
            "direction": benchmark.direction,
            "settings": {k: v for k, v in asdict(benchmark.config).items() if k != "root"},
        },
        data={
            "hub": protocol.get("data"),
            "revision": protocol.get("revision"),
            "revisions_found": benchmark.revisions,
            "split": protocol.get("split", asdict(benchmark.config).get("split")),
            "records_sha256": records_hash(rows),
        },
        protocol=protocol,
        decoding={
            "decoding": "greedy",
            "max_new_tokens": benchmark.max_new_tokens,
            "engine": benchmark.config.engine,
            "batch": benchmark.config.batch,
        },
        model=_model(export, out, about, result.settings.get("changes")),
        run={"recipe": about.recipe, "folder": about.folder, "arm": about.arm},
        software=_software(about.commit),
        hardware={**about.hardware, "devices": about.devices},
        cost=_cost(result, benchmark, about.devices),
        scores=_with_lookup(figures(benchmark, rows, result.aggregates), result.to_dict()),
        implementation=implementation(read_manifest(export)["priors"]),
        replies={"file": REPLIES, "sha256": sha256, "rows": len(rows)},
    )
    card.write(out)
    return card


def protocol_of(benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark's protocol, with a name and a list of deviations in any case."""
    return {"name": OWN, "deviations": [], **benchmark.protocol}


def weights_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over names and hashes of all tensors: equal weights have the same, whatever run made them."""
    named = sorted((name, about["sha256"]) for name, about in manifest["tensors"].items())
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _model(export: Path, out: Path, about: Circumstances, changes: Any) -> dict[str, Any]:
    manifest = read_manifest(export)
    return {
        "export": os.path.relpath(export, out),
        "manifest_sha256": file_hash(export / MANIFEST),
        "weights_sha256": weights_hash(manifest),
        "recipe_hash": manifest["recipe_hash"],
        "priors": {
            name: {key: entry[key] for key in ("kind", "export")}
            for name, entry in manifest["priors"].items()
        },
        "base": dict(about.base),
        "seed": about.seed,
        "changes": changes or {},
    }


def _software(commit: str | None) -> dict[str, Any]:
    found = {"spatialprior": spatialprior.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # vendored or built in place
            continue
    return {
        "commit": commit and commit.removesuffix("-dirty"),
        "dirty": commit is not None and commit.endswith("-dirty"),
        "versions": found,
    }


def _cost(result: EvalResult, benchmark: Benchmark, devices: int) -> dict[str, Any]:
    hours = result.seconds * devices / 3600
    rate: float | None = benchmark.config.price_per_hour
    return {
        "seconds": result.seconds,
        "items_per_second": len(result.replies) / result.seconds if result.seconds else None,
        "device_hours": hours,
        "price": None if rate is None else hours * rate,
    }


def _with_lookup(scores: dict[str, Any], tasks: Mapping[str, Any]) -> dict[str, Any]:
    """The scores with the text-only lookup of each task; it was fitted on questions that no reply holds."""
    for task, row in scores["tasks"].items():
        row["blind"] = tasks[task]["blind"]
        row["vs_blind"] = tasks[task]["vs_blind"]
    return scores
