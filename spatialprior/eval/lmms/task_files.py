"""YAML of lmms-eval's tasks: finding a task's folder, and rewriting its files, ``!function`` kept as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from spatialprior.eval.lmms.errors import LmmsError
from spatialprior.registry import near_miss

_NAME = re.compile(r"""^(task|group|tag)\s*:\s*["']?([^"'\s#\[]+)["']?\s*(?:#.*)?$""", re.MULTILINE)
_TEMPLATES = ("*.yaml", "*.yml", "*_yaml")


class _Function(str):
    """What stands behind ``!function``."""


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_constructor("!function", lambda loader, node: _Function(loader.construct_scalar(node)))  # type: ignore[arg-type]
_Dumper.add_representer(_Function, lambda dumper, text: dumper.represent_scalar("!function", text))


def find_task(tasks: Path, name: str) -> tuple[Path, str]:
    """The folder of a task, group or tag, and its name as lmms-eval knows it.

    Args:
        tasks: lmms-eval's ``tasks`` folder.
        name: Of a task, a group or a tag; or the name of a task's file (``tempcompass_mc``).

    Raises:
        LmmsError: There is none.
    """
    named: dict[str, Path] = {}
    by_file: dict[str, tuple[Path, str]] = {}
    for path in sorted(tasks.rglob("*.yaml")):
        folder = tasks / path.relative_to(tasks).parts[0]
        for kind, found in _NAME.findall(path.read_text(encoding="utf-8")):
            named.setdefault(found, folder)
            if kind == "task":
                by_file.setdefault(path.stem, (folder, found))
    if name in named:
        return named[name], name
    if name in by_file:
        return by_file[name]
    near = near_miss(name, named)
    hint = f"did you mean {near}?" if near else "`python -m lmms_eval --tasks list` lists them"
    raise LmmsError(f"lmms-eval has no task {name!r}; {hint}")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply ``change`` to every YAML file of a copied task folder, the templates too."""
    for pattern in _TEMPLATES:
        for path in sorted(folder.rglob(pattern)):
            values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
            if isinstance(values, dict):
                change(values)
                text = yaml.dump(
                    values, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True
                )
                path.write_text(text, encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """One file with what it includes, functions as text.

    Raises:
        LmmsError: It includes a file that is not there.
    """
    values: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    included = values.pop("include", [])
    found: dict[str, Any] = {}
    for name in reversed([included] if isinstance(included, str) else included):
        target = path.parent / name
        if not target.is_file():
            raise LmmsError(
                f"{path} includes {name}, which this wheel of lmms-eval lacks (as 0.7.1 and 0.7.2 do); "
                "type: pip install --no-deps lmms-eval==0.7.3"
            )
        found |= read_yaml(target)
    return found | values
