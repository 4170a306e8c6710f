"""Texts of official code, read from the copy that the user has: it is parsed, never run."""

from __future__ import annotations

import ast
from pathlib import Path

from spatialprior.eval.published.reading import RecordsError


def string_assigned(path: Path, name: str) -> str:
    """The string that a module assigns to ``name``; of a tuple, its first entry.

    Raises:
        RecordsError: The file is not there, is not Python, or assigns no string to it.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise RecordsError(f"{path} cannot be read: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and name in {ast.unparse(t) for t in node.targets}:
            value = node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value
    raise RecordsError(f"{path} assigns no text to {name}; is it the official file?")
