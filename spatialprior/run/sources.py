"""Where a run's clips and questions come from."""

from __future__ import annotations

from typing import Any

from spatialprior.registry import DATASETS
from spatialprior.run.schema import Component, RunConfig


def benchmark_of(config: RunConfig) -> Any:
    """The benchmark, on held-out questions of the kind that the run trains on where these are short."""
    assert config.eval is not None
    candidates = (*parts(config.instruction), *parts(config.data))
    source = next(filter(_has_short_answers, candidates), config.data)
    return config.eval.cls(config.eval.settings, source.cls(source.settings), config.seed)


def parts(source: Component | None) -> list[Component]:
    """A source, or those that it mixes."""
    if source is None:
        return []
    mixed = [
        Component(part.kind, DATASETS.get(part.kind), part.settings)
        for name in getattr(source.cls, "nested", {})
        for part in getattr(source.settings, name).values()
    ]
    return [leaf for part in mixed for leaf in parts(part)] or [source]


def _has_short_answers(source: Component) -> bool:
    """Whether a source asks questions that a benchmark can score."""
    return source.cls.has_questions and not getattr(source.cls, "free_form", False)
