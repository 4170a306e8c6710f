"""What may be said of our version of each paper's method: every one is a re-implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORD = "re-implementation"
"""In every label of a method that we took from a paper."""

_LABELS = {
    "gasp": (
        "GASP: a re-implementation. Verified against: its formulas, in an independent float64 reference. "
        "Not verified against: the official code (unreleased) or weights"
    ),
    "vega3d": (
        "VEGA-3D: a re-implementation on stock diffusers classes. Verified against: plain runs of the same "
        "classes, and an independent float64 reference of the fusion. Not verified against: the authors' "
        "trained weights or their numbers"
    ),
    "geometryexpert": (
        "Geometry expert: a G²VLM-style re-implementation on stock classes of transformers. Verified against: "
        "closed forms in the project's tests. Not verified against: the official code or weights"
    ),
}


def implementation(priors: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Prior -> its label, for the ``priors`` of a manifest; a plug-in's is named as such."""
    return {name: _label(str(entry["kind"])) for name, entry in priors.items()}


def _label(kind: str) -> str:
    # A manifest has the registry's name of a prior that stays, and the class's of one that does not.
    return _LABELS.get(kind.replace("_", "").lower(), f"{kind}: a plug-in; nothing is known of it")
