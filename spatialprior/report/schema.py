"""``report.json``: its fields, and how it is written and read.

``schema_version`` changes its first number when a field changes meaning. Absent sections are left
out or ``null``, never zero. Numbers that are not finite become ``null``.

====================  =================================================================================
``recipe, size``      names; ``seed``: int; ``commit``: git hash or null; ``hardware``: text or mapping
``data``              kind of data, e.g. ``rooms``; ``method``: label of the trained arm, e.g. ``GASP``
``priors``            names of the priors; ``seconds``: stage -> s; ``peak_rss_bytes``: int
``probe``             ``before``, ``control``, ``after`` (and ``corr_only``): ``ProbeResult.at_layer``, and
                      ``other_rope``: PCK and rho at that layer with the other treatment of the rotary embedding
``eval``              task -> ``score, chance, blind, n, ci95`` and optionally ``multi_view``,
                      ``vs_blind`` {``mean``, ``ci95``}; ``eval_control``, ``eval_before``: the same;
                      ``eval_vs_control``: paired difference {``mean``, ``ci95``} over all questions
``comparisons``       arm -> the same difference, ``at_inference``: bool, ``tasks``: as ``eval``
``cards``             arm -> of its result card: ``benchmark, version, split, protocol, rule, deviations``,
                      ``headline`` (``name, value, ci95``), ``micro``, ``macro``, ``n, parse_failure_rate,
                      unscored, errors, file``
``ablations``         ablation -> ``what, applicable, reason, score, whole, difference, ci95, n, clusters``,
                      ``chance, unreadable, unreadable_whole, failed, tasks, mcnemar`` (``only_whole,
                      only_ablated, p, p_holm``)
``leaks``             ``shared``: number of scenes, ``first``: some; ``benchmark, sources``: what was audited
``geometry``          arm -> ``figures`` (name -> ``value, ci95, n, higher_is_better, baseline``), ``settings``;
                      arms: ``geometry`` (after that phase), ``after``; ``pictures/geometry_<arm>.npz``
``export``            ``identical_logits, extra_keys, parameters`` and optionally ``stock_parameters``, ``kept``
``replies``           list of {``clip_id, task, question, answer, reply, correct``}
``config``            the resolved settings
====================  =================================================================================
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCHEMA_VERSION = "1.0"
REQUIRED = ("schema_version", "recipe", "seed")
ARMS = ("before", "control", "corr_only", "after")
"""Arms of the probe in the order in which they are told."""


class ReportError(ValueError):
    """A report that cannot be read; the message says which file and why."""


def jsonable(value: Any) -> Any:
    """Plain JSON of nested mappings and sequences: NaN and infinities become ``None``, paths text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return jsonable(value.tolist())
    if isinstance(value, (Sequence, set, frozenset)):
        return [jsonable(item) for item in value]
    return str(value)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_report(report: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Write ``report.json`` atomically with its version; returns what was written.

    Raises:
        ReportError: A required field is missing.
    """
    plain: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **jsonable(report)}
    _check(plain, path)
    write_text(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")
    return plain


def read_report(path: Path) -> dict[str, Any]:
    """Read ``report.json``.

    Raises:
        ReportError: It is missing, broken, or of a version that this code does not know.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{path} does not exist; give a run folder that has finished") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(
            f"{path} is not JSON ({error}); run mode=probe or mode=eval again"
        ) from None
    if not isinstance(report, dict):
        raise ReportError(f"{path} holds a {type(report).__name__}, not a report")
    _check(report, path)
    return report


def _check(report: Mapping[str, Any], path: Path) -> None:
    missing = [name for name in REQUIRED if name not in report]
    if missing:
        raise ReportError(f"{path}: a report needs {', '.join(missing)}")
    version = str(report["schema_version"])
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise ReportError(f"{path} has schema {version}, this code reads {SCHEMA_VERSION}")
