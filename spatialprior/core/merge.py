"""Settings over settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge; ``above`` wins, lists are replaced whole, and another ``kind`` takes no settings over."""
    if "kind" in below and above.get("kind", below["kind"]) != below["kind"]:
        return dict(above)
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        out[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return out
