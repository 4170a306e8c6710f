"""A plan as one page of text, and as plain values."""

from __future__ import annotations

from typing import Any

from spatialprior.plan.meter import BACKWARD, FORWARD, RECOMPUTE
from spatialprior.plan.planner import Plan
from spatialprior.plan.workload import Workload

_GIB = 2**30


def text_of(plan: Plan) -> str:
    """One page for the terminal."""
    config = plan.config
    small = plan.total_memory < _GIB
    unit = 2**20 if small else _GIB
    lines: list[str] = []
    settings, scale = config.plan, config.scale
    lines += [
        f"PLAN  {config.recipe}, size {config.size}, scale {config.hardware}: {plan.gpus} x {plan.gpu.name}",
        f"backbone {plan.shape.name} ({plan.shape.config.model_type}); no weight was loaded, no data opened",
        "",
        f"{'PARAMETERS':<38}{'all':>16}{'trained':>16}",
    ]
    every = sum(both[0] for both in plan.parameters.values())
    trained = sum(both[1] for both in plan.parameters.values())
    for owner, (own, training) in plan.parameters.items():
        lines.append(f"  {owner:<36}{own:>16,}{training:>16,}")
    lines += [
        f"  {'total':<36}{every:>16,}{trained:>16,}   {trained / every:.2%} trained",
        "",
        f"{'MEMORY of one GPU, at the fullest moment':<54}{'MiB' if small else 'GiB':>16}",
    ]
    for kind, size in plan.memory.items():
        lines.append(f"  {kind:<52}{size / unit:>16.2f}")
    lines += [
        f"  {'total':<52}{plan.total_memory / unit:>16.2f}   of {plan.free / _GIB:.1f} GiB "
        f"({plan.gpu.gib:.1f} less {settings.reserve:.0%} for the context and fragments)",
        "",
        f"{'FLOPs of a step (10^12)':<30}{'forward':>12}{'backward':>12}{'recomputed':>12}{'share':>10}",
    ]
    for part, by_phase in _by_part(plan).items():
        cells = "".join(
            f"{by_phase.get(phase, 0) / 1e12:>12,.4g}" for phase in (FORWARD, BACKWARD, RECOMPUTE)
        )
        lines.append(f"  {part:<28}{cells}{sum(by_phase.values()) / plan.step.total_flops:>10.2%}")
    lines += [
        f"  {'total':<28}{plan.step.total_flops / 1e12:>12,.5g}   attention as the full square, causal or not",
        "",
        "STEP",
    ]
    for work in plan.works:
        low, high = work.frames
        views = f"{low}" if low == high else f"{low} to {high}"
        pixels = f"{work.size[0]} x {work.size[1]}"
        lines.append(
            f"  {round(work.clips_per_step)} clips of {work.name}: {views} views of {pixels}, "
            f"{_questions(work)}"
        )
    passes = -(-config.trainer.clips_per_step // (plan.gpus * scale.micro_batch))
    lines += [
        f"  {plan.step.tokens:,.0f} tokens, {plan.step.visual_tokens:,.0f} of them visual, "
        f"{plan.step.labelled_tokens:,.0f} labelled; {passes} pass(es) of {scale.micro_batch} clip(s) a GPU",
        "",
        "TIME",
        f"  {config.trainer.steps:,} steps: {plan.hours:,.3g} h, {plan.gpu_hours:,.4g} GPU-hours at "
        f"{settings.utilisation:.0%} of {plan.gpu.tflops:g} TFLOP/s ({plan.gpu.source})",
    ]
    if plan.control_hours > plan.hours:
        lines.append(
            f"  with its control: at most {plan.control_hours:,.3g} h (control=none leaves that out); "
            "probes and scoring are not counted"
        )
    if config.size == "paper":
        lines.append(
            f"  the paper's budget is {settings.gpu_hours:g} GPU-hours (32 H200 for about 10 h [N]): "
            f"{plan.gpu_hours / settings.gpu_hours:.2g} times that is needed"
        )
    return "\n".join([*lines, "", *_verdict(plan)]) + "\n"


def dict_of(plan: Plan) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "recipe": plan.config.recipe,
        "size": plan.config.size,
        "scale": plan.config.hardware,
        "backbone": plan.shape.name,
        "gpu": plan.gpu.name,
        "gpus": plan.gpus,
        "parameters": {k: {"all": a, "trained": t} for k, (a, t) in plan.parameters.items()},
        "memory_bytes": plan.memory,
        "memory_total_bytes": plan.total_memory,
        "memory_free_bytes": plan.free,
        "flops_per_step": _by_part(plan),
        "flops_per_step_total": plan.step.total_flops,
        "tokens_per_step": plan.step.tokens,
        "visual_tokens_per_step": plan.step.visual_tokens,
        "labelled_tokens_per_step": plan.step.labelled_tokens,
        "hours": plan.hours,
        "hours_with_control": plan.control_hours,
        "gpu_hours": plan.gpu_hours,
        "fits": plan.fits,
        "fitting": None if plan.fitting is None else str(plan.fitting),
        "assumed": {k: v for k, v in vars(plan.config.plan).items() if k != "out"},
    }


def _questions(work: Workload) -> str:
    if not work.questions:
        return "no question"
    return f"{work.questions} question(s) of {work.text_tokens} + {work.answer_tokens} tokens (assumed)"


def _by_part(plan: Plan) -> dict[str, dict[str, float]]:
    parts: dict[str, dict[str, float]] = {}
    for (part, phase), value in plan.step.flops.items():
        parts.setdefault(part, {})[phase] = value
    return dict(sorted(parts.items(), key=lambda item: -sum(item[1].values())))


def _verdict(plan: Plan) -> list[str]:
    if plan.fits:
        return [f"FITS: {(plan.free - plan.total_memory) / _GIB:.1f} GiB to spare"]
    over = f"DOES NOT FIT: {(plan.total_memory - plan.free) / _GIB:.1f} GiB too much"
    if plan.fitting is not None:
        return [over, f"  this fits: {plan.fitting}"]
    return [
        over,
        f"  nothing tried fits (the least is {plan.lowest / _GIB:.1f} GiB): take more GPUs with "
        "scale.sharding=fsdp2, a larger plan.gpu, a smaller backbone, fewer or smaller frames",
    ]
