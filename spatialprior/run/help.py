"""``--help``: what a run does, and what can be chosen, read from the recipes that are installed."""

from __future__ import annotations

from spatialprior.run.catalog import GROUPS, options

_HEAD = """\
Train a vision-language model with spatial priors, export it as an ordinary Hugging Face folder,
probe it, score it, and write a report.

usage: python -m spatialprior.run [GROUP=NAME ...] [setting=VALUE ...] [--cfg] [--help] [--version]

  python -m spatialprior.run recipe=gasp_qwen                   GASP, embedded nano world
  python -m spatialprior.run recipe=gasp_qwen prior=[]          the same run without priors
  python -m spatialprior.run data=posed_rgbd data.root=PATH     your own RGB-D sequence with poses
  python -m spatialprior.run trainer.steps=50 seed=1 --cfg      print the resolved settings, run nothing
  python -m spatialprior.run mode=plan size=paper scale=8gpu_fsdp2   what that would cost; loads no weight
  python -m spatialprior.run recipe=vega3d_baseline mode=correspondence   score the encoder of its prior
  python -m spatialprior.run resume=runs/RECIPE/TIME-HASH       go on with a run that was stopped
  python -m spatialprior.run resume=RUN mode=report             redo one stage: eval, export, probe, report
  python -m spatialprior.run mode=verify card=RUN               recompute its scores from the stored replies

A run with priors also trains its control (the same without them); control=none switches that off.

GROUPS
"""

_TAIL = """\
SETTINGS
  Everything that --cfg prints can be set: priors.gasp.temperature=0.1, trainer.steps=100, scale.micro_batch=2.
  A name that does not exist is an error that tells near ones.

OUTPUT
  output_root/RECIPE/TIME-HASH/ (output_root=runs) holds recipe.yaml, log.jsonl, checkpoints/,
  export/ (load it with AutoModelForImageTextToText), report.json and report.html.
"""


def help_text() -> str:
    """The whole help, with every option found on disk and the plug-in that brought it."""
    lines = []
    for group, meaning in GROUPS.items():
        lines.append(f"  {group:<12} {meaning}")
        for option in options(group).values():
            origin = "" if option.origin == "spatialprior" else f" [{option.origin}]"
            lines.append(f"    {option.name:<16} {option.describe()}{origin}".rstrip())
        lines.append("")
    return _HEAD + "\n".join(lines) + "\n" + _TAIL
