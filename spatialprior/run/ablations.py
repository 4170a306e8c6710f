"""The ablations that a run asks its benchmark for, and what its report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spatialprior.core.injector import ExportMode
from spatialprior.eval.ablation.names import ABLATIONS, VIEWS
from spatialprior.eval.ablation.paired import Row, compare
from spatialprior.run.errors import ConfigError
from spatialprior.run.schema import Component, RunConfig
from spatialprior.run.training import changed_priors


@dataclass(frozen=True)
class Ablation:
    """One ablation of the recipe's exported model.

    Attributes:
        name: As ``eval.ablate`` names it.
        changed: Kept priors with the settings that it changes; empty for one of views.
        reason: Why it cannot be done with this export; ``None`` where it can.
    """

    name: str
    changed: dict[str, Component] = field(default_factory=dict)
    reason: str | None = None

    @property
    def arm(self) -> str:
        """In the names of its stage and of the folder with its replies; no arm has a dot in its name."""
        return f"ablate.{self.name}"

    @property
    def what(self) -> str:
        """What it does, in words."""
        return ABLATIONS[self.name] + (f" ({', '.join(self.changed)})" if self.changed else "")


def ablation_of(config: RunConfig, name: str) -> Ablation:
    """How an ablation is done with this recipe, or why it cannot be."""
    if name in VIEWS:
        return Ablation(name)
    kept = {n: p for n, p in config.priors.items() if p.cls.export_mode is ExportMode.KEEP}
    if not kept:
        return Ablation(name, reason="not applicable: the export holds no prior")
    changes = {n: dict(p.cls.ablations[name]) for n, p in kept.items() if name in p.cls.ablations}
    if not changes:
        return Ablation(name, reason=f"not available for {', '.join(kept)}")
    try:
        priors = changed_priors(config.priors, changes, f"eval.ablate.{name}")
    except ConfigError as error:
        return Ablation(name, reason=f"not applicable: {error}")
    return Ablation(name, {prior: priors[prior] for prior in changes})


def ablation_report(
    ablations: Sequence[Ablation],
    whole: Sequence[Row],
    ablated: Mapping[str, Sequence[Row]],
    direction: str,
) -> dict[str, Any]:
    """``ablations`` of a report: each beside the whole model on the same questions.

    Args:
        ablations: What was asked for.
        whole: The exported model's replies.
        ablated: Ablation -> its replies, where it can be done.
        direction: Of the benchmark.
    """
    compared = compare(whole, ablated, direction)
    return {
        each.name: {
            "what": each.what,
            "applicable": each.reason is None,
            "reason": each.reason,
            "direction": direction,
            **compared.get(each.name, {}),
        }
        for each in ablations
    }
