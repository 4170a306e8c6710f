"""``mode=plan``: what a run would cost, printed."""

from __future__ import annotations

import json
from pathlib import Path

from spatialprior.core.injector import ExportMode
from spatialprior.plan.planner import plan_run
from spatialprior.plan.table import dict_of, text_of
from spatialprior.report.schema import write_text
from spatialprior.run.arms import arms_of
from spatialprior.run.errors import ConfigError
from spatialprior.run.schema import RunConfig


def plan(config: RunConfig) -> int:
    """Print the plan of ``config``; write it as JSON where ``plan.out`` says so."""
    kept = [n for n, p in config.priors.items() if p.cls.export_mode is ExportMode.KEEP]
    if kept:
        rest = "prior=[] phases={}" if config.phases else "prior=[]"
        raise ConfigError(
            f"mode=plan does not count the frozen models that {', '.join(kept)} runs; plan the rest with {rest}"
        )
    arms_of(config, Path())  # says what is wrong with phases
    found = plan_run(config)
    print(text_of(found), end="")
    if config.phases:
        print(f"\nNot planned: the phases before it ({', '.join(config.phases)}).")
    if config.plan.out is not None:
        path = Path(config.plan.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(dict_of(found), indent=2) + "\n")
        print(f"\nplan: {path}")
    return 0
