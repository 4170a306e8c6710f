"""The one error of the bridge."""

from __future__ import annotations


class LmmsError(ValueError):
    """lmms-eval is not installed, broken, or asked for what it or we do not have. One line."""
