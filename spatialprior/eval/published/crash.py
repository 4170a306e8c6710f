"""What a reply is worth on which the official code stops with an error."""

from __future__ import annotations

from spatialprior.eval.benchmark import Graded


def crashed(error: Exception, parsed: str | None = None) -> Graded:
    """No score, for the reason that the official code would give."""
    return Graded(None, parsed, f"{type(error).__name__}: {error}")
