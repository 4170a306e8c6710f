"""The lmms-eval that is installed: found without importing it, and checked for what its releases lack."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from spatialprior.eval.lmms.errors import LmmsError

TESTED = "0.7.3"
INSTALL = 'pip install "spatialprior[lmms-eval,video]"'


def version() -> str:
    """The installed release.

    Raises:
        LmmsError: There is none.
    """
    try:
        return metadata.version("lmms-eval")
    except metadata.PackageNotFoundError:
        raise LmmsError(f"lmms-eval is not installed; type: {INSTALL}") from None


def tasks_folder() -> Path:
    """Where its tasks lie.

    Raises:
        LmmsError: It is not installed, or is a wheel without task files: 0.7 has no YAML at all, and 0.7.1 and
            0.7.2 lack every ``_default_template_yaml``, which most tasks include.
    """
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise LmmsError(f"lmms-eval is not installed; type: {INSTALL}")
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    return checked(folder, version())


def checked(folder: Path, release: str) -> Path:
    """``folder`` if it holds task files and the templates that they include.

    Raises:
        LmmsError: It does not; the message says which release does.
    """
    for pattern, lacking in (
        ("*/*.yaml", "any task"),
        ("*/_default_template_yaml", "the templates of its tasks"),
    ):
        if next(folder.glob(pattern), None) is None:
            raise LmmsError(
                f"the wheel of lmms-eval {release} lacks {lacking} (a fault of that release); type: "
                f"pip install --no-deps lmms-eval=={TESTED}"
            )
    return folder
