"""Which ablations there are."""

from __future__ import annotations

from collections.abc import Iterable

from spatialprior.registry import suggest

VIEWS = {
    "blind": "no views at all",
    "single_frame": "one view alone",
    "shuffled_frames": "the views in another order",
}
"""Those of what the model is shown, with what they do."""

PRIORS = {
    "zero_prior": "zeros in the place of the prior's features",
    "other_scene_prior": "the prior's features of another scene",
}
"""Those of what a prior that stays in the export adds; each prior declares which it can do
(:attr:`~spatialprior.core.injector.PriorInjector.ablations`)."""

ABLATIONS = VIEWS | PRIORS


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: One of them is unknown.
    """
    found = tuple(dict.fromkeys(names))
    for name in found:
        if name not in ABLATIONS:
            raise ValueError(f"eval.ablate has no {name!r}; {suggest(name, ABLATIONS)}")
    return found
