"""``report.html``: one self-contained page from ``report.json`` and the run folder. It requests nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from spatialprior.report import ablations, figures, geometry
from spatialprior.report.controls import control_rows, control_statements
from spatialprior.report.depth_figure import depth_picture
from spatialprior.report.matches_figure import heatmap_picture, matches_picture, read_traces
from spatialprior.report.scene_viewer import caption, viewer_data
from spatialprior.report.schema import write_text
from spatialprior.report.score_cards import COLUMNS, card_rows
from spatialprior.report.verdict import (
    beats_blind,
    method,
    number,
    retention,
    statements,
    targets,
    with_interval,
)

_MAX_REPLIES = 24
_LOG_FOLDERS = {"after": ".", "control": "control", "corr_only": "corr_only"}

SETTING_WORDS = {
    "pooling": "pooling over attention heads",
    "rope": "rotary embedding applied",
    "direction": "direction (query → key)",
    "norm": "distance norm",
    "radius_patches": "radius, patches",
    "confidence": "confidence",
    "anchor_grid": "anchors a side",
    "tolerance_abs": "depth tolerance, m",
    "tolerance_rel": "depth tolerance, share",
}


def write_html(report: Mapping[str, Any], run_folder: Path, path: Path | None = None) -> Path:
    """Render the page of a run.

    Args:
        report: The content of ``report.json``; any section may be missing.
        run_folder: Where ``log.jsonl`` (``control/log.jsonl``) and ``pictures/*.npz`` are sought.
        path: Where to write; ``run_folder/report.html`` by default.
    """
    target = path or run_folder / "report.html"
    write_text(target, render(report, run_folder))
    return target


def render(report: Mapping[str, Any], run_folder: Path) -> str:
    """The page as text."""
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters.update(num=number)
    source = _packaged("template.html.j2")
    labels = figures.arm_labels(report)
    traces = read_traces(run_folder / "pictures")
    logs = {arm: run_folder / sub / "log.jsonl" for arm, sub in _LOG_FOLDERS.items()}
    replies = [r for r in report.get("replies") or [] if isinstance(r, Mapping)]
    return environment.from_string(source).render(
        report=report,
        title=f"{report.get('recipe', 'run')} · {method(report)}",
        facts=_facts(report),
        statements=[
            *ablations.leak_statements(report),
            *control_statements(report),
            *geometry.geometry_statements(report),
            *statements(report),
        ],
        controls=control_rows(report),
        ablations=_ablations(report),
        leak_line=ablations.leak_line(report),
        targets=targets(report),
        curves=_present(
            figures.pck_by_layer(report),
            figures.rho_by_layer(report),
            figures.temporal_robustness(report),
            figures.pck_by_distance(report),
        ),
        pictures=_present(matches_picture(traces, labels), heatmap_picture(traces, labels)),
        training=_present(
            figures.training_curves({a: p for a, p in logs.items() if p.is_file()}, labels)
        ),
        probe_rows=_probe_rows(report, labels),
        other_rope=_other_rope(report),
        layer_rows=_layer_rows(report),
        layer_labels=[labels[name] for name in figures.arms_of(report)],
        distance_rows=_distance_rows(report),
        geometry=_geometry(report, run_folder / "pictures"),
        tasks=_task_rows(report),
        task_arms=_task_arms(report, labels),
        card_columns=COLUMNS,
        cards=card_rows(report),
        replies=replies[:_MAX_REPLIES],
        num_replies=len(replies),
        settings=_settings(report),
        cost=_cost(report),
        export=_export(report.get("export") or {}),
        priors=[str(prior).lower() for prior in report.get("priors") or []],
        config_text=json.dumps(report["config"], indent=2) if report.get("config") else "",
        style=Markup(_packaged("style.css")),
    )


def _packaged(name: str) -> str:
    return resources.files("spatialprior.report").joinpath(name).read_text("utf-8")


def _present(*found: figures.Picture | None) -> list[figures.Picture]:
    return [picture for picture in found if picture is not None]


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    hardware = report.get("hardware")
    if isinstance(hardware, Mapping):
        hardware = ", ".join(f"{key} {value}" for key, value in hardware.items())
    commit = report.get("commit")
    pairs = {
        "recipe": report.get("recipe"),
        "size": report.get("size"),
        "data": report.get("data"),
        "seed": report.get("seed"),
        "commit": str(commit)[:12] if commit else None,
        "hardware": hardware,
    }
    return [(name, str(value)) for name, value in pairs.items() if value is not None]


def _probe_rows(report: Mapping[str, Any], labels: Mapping[str, str]) -> list[dict[str, str]]:
    rows = []
    for name, arm in figures.arms_of(report).items():
        kept = retention(arm) if arm else None
        other = arm.get("other_rope") or {}
        rho_bounds = (
            arm["rho_ci95_by_layer"][arm["layer"]] if arm.get("rho_ci95_by_layer") else None
        )
        rows.append(
            {
                "arm": labels[name],
                "layer": str(arm["layer"]),
                "pck": with_interval(arm["peak_pck"], arm.get("ci95")),
                "other_rope": f"{number(other.get('pck'))} / {number(other.get('confidence_correlation'))}",
                "chance": number(arm["chance"]),
                "static": number(arm["static"]),
                "moved": number(arm.get("pck_moved")),
                "rho": with_interval(arm.get("confidence_correlation"), rho_bounds),
                "kept": f"{number(kept[1])} at Δ{kept[0]}" if kept else "–",
                "n": f"{arm['n_anchors']} / {arm['n_pairs']} / {arm['n_clips']}",
            }
        )
    return rows


def _other_rope(report: Mapping[str, Any]) -> str:
    """``with`` or ``without``: how the column of both figures treats the rotary embedding."""
    others = [arm.get("other_rope") or {} for arm in figures.arms_of(report).values()]
    return "with" if any(other.get("rope") for other in others) else "without"


def _layer_rows(report: Mapping[str, Any]) -> list[list[str]]:
    arms = figures.arms_of(report)
    depth = max((len(arm["pck_by_layer"]) for arm in arms.values()), default=0)
    rows = []
    for layer in range(depth):
        row = [str(layer)]
        for arm in arms.values():
            pck, rho = arm["pck_by_layer"], arm.get("confidence_correlation_by_layer") or []
            bounds = arm.get("pck_ci95_by_layer") or []
            has = layer < len(pck)
            row.append(
                with_interval(pck[layer], bounds[layer] if layer < len(bounds) else None)
                if has
                else "–"
            )
            row.append(number(rho[layer]) if layer < len(rho) else "–")
        rows.append(row)
    return rows


def _distance_rows(report: Mapping[str, Any]) -> list[list[str]]:
    after = (report.get("probe") or {}).get("after") or {}
    ratios = after.get("temporal_robustness") or {}
    return [
        [
            d,
            number(row["pck"]),
            number(ratios.get(d)),
            number(row["chance"]),
            number(row["static"]),
            str(row["n"]),
        ]
        for d, row in sorted(
            (after.get("by_distance") or {}).items(), key=lambda item: int(item[0])
        )
    ]


def _task_arms(report: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    arms = (("eval_before", "before"), ("eval_control", "control"))
    return [labels[arm] for key, arm in arms if report.get(key)]


def _task_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for task, row in (report.get("eval") or {}).items():
        others = [
            report[key].get(task) for key in ("eval_before", "eval_control") if report.get(key)
        ]
        rows.append(
            {
                "task": task,
                "multi_view": row.get("multi_view"),
                "score": with_interval(row.get("score"), row.get("ci95")),
                "others": [
                    with_interval(o.get("score"), o.get("ci95")) if o else "–" for o in others
                ],
                "blind": number(row.get("blind")),
                "chance": number(row.get("chance")),
                "n": row.get("n", "–"),
                "beats": beats_blind(row),
            }
        )
    return rows


def _ablations(report: Mapping[str, Any]) -> dict[str, Any]:
    """The section on what taking something away changes; empty where nothing was asked for."""
    return {
        "sentences": ablations.ablation_sentences(report),
        "head": ablations.HEAD,
        "rows": ablations.ablation_rows(report),
        "tasks": ablations.ablation_task_rows(report),
        "graded": any(e.get("graded") for e in (report.get("ablations") or {}).values()),
    }


def _geometry(report: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """The section on depth, cameras and points; ``None`` where they were not measured."""
    arms = geometry.arms_of(report)
    if not arms:
        return None
    scenes = {geometry.arm_label(a): s for a, s in geometry.read_scenes(folder, arms).items()}
    data = {label: viewer_data(scene) for label, scene in scenes.items()}
    script = _packaged("viewer.js")
    # The page allows this script by its hash and no other.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    settings = [arm.get("settings") or {} for arm in arms.values()]
    return {
        "label": geometry.LABEL,
        "arms": [geometry.arm_label(arm) for arm in arms],
        "tables": geometry.tables(report),
        "settings": [
            (name.replace("_", " "), geometry.in_common(_shown(s.get(name)) for s in settings))
            for name in dict.fromkeys(name for s in settings for name in s)
        ],
        "pictures": [depth_picture(scene, label) for label, scene in scenes.items()],
        "viewers": [{"label": n, "data": d, "caption": caption(d)} for n, d in data.items()],
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
    }


def _settings(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    arms = figures.arms_of(report)
    if not arms:
        return []
    arm = arms.get("after") or next(iter(arms.values()))
    rows = [(SETTING_WORDS.get(k, k), _shown(v)) for k, v in (arm.get("settings") or {}).items()]
    unit = {"source": "scenes or sequences", "clip": "clips"}.get(arm.get("clustered_by", ""))
    return [*rows, ("intervals", f"95 %, bootstrap over {unit}" if unit else "–")]


def _export(export: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts about the export, and about the priors that stay in it."""
    facts = {name: value for name, value in export.items() if name != "kept"}
    kept = export.get("kept") or {}
    facts |= {
        f"with its priors: {name}" if name != "kept" else "keeps": v for name, v in kept.items()
    }
    return [(name.replace("_", " "), _shown(value)) for name, value in facts.items()]


def _shown(value: Any) -> str:
    """A setting as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}"
    return {"l2": "Euclidean (l2)", "linf": "per axis (linf)"}.get(str(value), str(value))


def duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 14 min``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _cost(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = report.get("seconds") or {}
    rows = [(str(stage), duration(value)) for stage, value in seconds.items() if stage != "total"]
    if seconds:
        known = [
            value for stage, value in seconds.items() if value is not None and stage != "total"
        ]
        rows.append(("total", duration(seconds.get("total") or sum(known))))
    if report.get("peak_rss_bytes"):
        rows.append(("peak memory", f"{report['peak_rss_bytes'] / 2**30:.2f} GiB"))
    return rows
