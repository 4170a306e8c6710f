"""Whether a benchmark asks about scenes that the model was trained on, by the ids of scenes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spatialprior.data.scenes import Scenes

_NAMED = 5


@dataclass(frozen=True)
class Audit:
    """Training data beside a benchmark.

    Attributes:
        benchmark: Its scenes; or why they cannot be told.
        sources: Training source -> its scenes, or why they cannot be told.
    """

    benchmark: Scenes | str
    sources: Mapping[str, Scenes | str]

    @property
    def shared(self) -> dict[str, list[str]]:
        """Scene that is in both -> the sources that have it, in order of their names."""
        if isinstance(self.benchmark, str):
            return {}
        found: dict[str, list[str]] = {}
        for name, scenes in self.sources.items():
            if not isinstance(scenes, str):
                for scene in scenes.known & self.benchmark.known:
                    found.setdefault(scene, []).append(name)
        return dict(sorted(found.items()))

    def told(self) -> str:
        """How many scenes are shared, and which: ``2 scenes (a, b; of data)``."""
        shared = self.shared
        first = ", ".join(list(shared)[:_NAMED]) + (", ..." if len(shared) > _NAMED else "")
        sources = ", ".join(dict.fromkeys(name for names in shared.values() for name in names))
        return f"{len(shared)} scene{'s' * (len(shared) != 1)} ({first}; of {sources})"

    def to_dict(self) -> dict[str, Any]:
        """As ``leaks`` of ``report.json``."""
        return {
            "shared": len(self.shared),
            "first": list(self.shared)[:_NAMED],
            "told": self.told() if self.shared else "",
            "benchmark": _plain(self.benchmark),
            "sources": {name: _plain(scenes) for name, scenes in self.sources.items()},
        }


def _plain(scenes: Scenes | str) -> dict[str, Any]:
    if isinstance(scenes, str):
        return {"audited": False, "why": scenes}
    if not scenes.known:
        return {"audited": False, "why": f"none of its {scenes.unnamed} names a scene"}
    return {"audited": True, "scenes": len(scenes.known), "unnamed": scenes.unnamed}
