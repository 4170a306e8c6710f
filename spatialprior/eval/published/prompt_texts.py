"""Long prompts of others, read from what the user has, not copied here."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path


class PromptError(ValueError):
    """A prompt's text is not to be had. One line that says what to install or set."""


def string_constants(path: Path) -> dict[str, str]:
    """Names that a module binds to plain strings, or to a tuple of one (a comma too many), at its top level.

    The module is parsed, never run.

    Raises:
        PromptError: The file is missing, or is no Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise PromptError(f"{path} holds no prompts: {error}") from None
    return {
        target.id: value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(value := _only_entry(node.value), ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(value.value, str)
    }


def _only_entry(value: ast.expr) -> ast.expr:
    return value.elts[0] if isinstance(value, ast.Tuple) and len(value.elts) == 1 else value


def lmms_eval_file(name: str) -> Path:
    """A file below the installed ``lmms_eval`` package, found without importing it.

    Raises:
        PromptError: It is not installed, or lacks the file.
    """
    found = find_spec("lmms_eval")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    for folder in folders:
        if (path := Path(folder) / name).is_file():
            return path
    what = f"lacks {name}" if folders else "is not installed"
    raise PromptError(
        f"this protocol's prompt is read from lmms-eval, which {what}; type: pip install lmms-eval==0.7.3"
    )


def checkout_file(root: str, name: str, repository: str) -> Path:
    """A file of the official checkout at ``root``, as ``eval.prompts`` names it.

    Raises:
        PromptError: It is not there.
    """
    path = Path(root).expanduser() / name
    if not path.is_file():
        raise PromptError(
            f"eval.prompts={root} has no {name}; it must be a checkout of {repository}"
        )
    return path


def constant(texts: dict[str, str], name: str, path: Path) -> str:
    """One of them.

    Raises:
        PromptError: It is missing.
    """
    if name not in texts:
        raise PromptError(f"{path} has no text {name}; it is another version than expected")
    return texts[name]
