"""Faults of lmms-eval's tasks that are mended in the copies that we run. Each is named, with its release.

A fault is looked for in the text, so a release without it is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FUTURE = re.compile(r"^from __future__ import .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Mending:
    """One fault.

    Attributes:
        folder: Of the task.
        why: What goes wrong, and where it was seen.
        mend: The text of its ``utils.py`` without the fault.
    """

    folder: str
    why: str
    mend: Callable[[str], str]


def _imported(name: str, module: str) -> Callable[[str], str]:
    """Add an import of ``name`` where it is used and not imported."""
    line = f"from {module} import {name}\n"

    def mend(text: str) -> str:
        if not re.search(rf"\b{name}\(", text) or re.search(
            rf"^from {module} import .*\b{name}\b", text, re.M
        ):
            return text
        start = max((found.end() for found in _FUTURE.finditer(text)), default=0)
        return text[:start] + line + text[start:]

    return mend


def _without(pattern: str) -> Callable[[str], str]:
    return lambda text: re.sub(pattern, "", text, flags=re.MULTILINE)


def _redefined(name: str, code: str) -> Callable[[str], str]:
    """Define a function again behind the others, where there is one of that name."""

    def mend(text: str) -> str:
        return f"{text}\n\n{code}" if re.search(rf"^def {name}\(", text, re.M) else text

    return mend


MENDINGS = (
    Mending(
        "sparbench",
        "0.7.3 uses functools.partial without importing it: every number scores 0 (the NameError is swallowed)",
        _imported("partial", "functools"),
    ),
    Mending(
        "tempcompass",
        "0.7.3 asks gpt-3.5-turbo about a reply that its rules do not read, ten times where there is no key or "
        "network, 15 s an item, and then gives 0: gives 0 at once",
        _redefined(
            "get_eval_result",
            "def get_eval_result(prompt, maxtry=10, sys_prompt=None):\n    return None, 0\n",
        ),
    ),
    Mending(
        "nextqa",
        "0.7.3 downloads NLTK data at import, which only the open-ended tasks use: uses what is installed",
        _without(r"^\s*nltk\.download\(.*\)\n"),
    ),
)


def mend(folder: Path) -> list[str]:
    """Mend a copied task folder; the reasons for what was changed."""
    path, done = folder / "utils.py", []
    for mending in MENDINGS:
        if mending.folder != folder.name or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        mended = mending.mend(text)
        if mended != text:
            path.write_text(mended, encoding="utf-8")
            done.append(f"{mending.folder}: {mending.why}")
    return done
