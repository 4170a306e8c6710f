"""``spatialprior_manifest.json``: what an exported folder holds, with hashes that say whether it still does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

import spatialprior

MANIFEST = "spatialprior_manifest.json"
SCHEMA_VERSION = "1.0"
_REQUIRED = ("schema_version", "recipe_hash", "priors", "parameters", "tensors", "files")


class ExportError(ValueError):
    """A model cannot be exported, or an exported folder is not what its manifest says. One line."""


def write_manifest(
    folder: Path,
    *,
    recipe_hash: str,
    priors: Mapping[str, Mapping[str, Any]],
    parameters: int,
    backbone: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe every file and tensor of ``folder`` and write the manifest into it.

    Args:
        folder: A plain Hugging Face folder with safetensors weights.
        recipe_hash: Identifies the settings of the run.
        priors: Name -> ``kind`` and ``export`` (its mode); of a kept one also what loading it takes.
        parameters: Number of parameters of the loaded model.
        backbone: Its ``kind`` and ``settings``, where known.
    """
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "spatialprior": spatialprior.__version__,
        "recipe_hash": recipe_hash,
        "priors": {name: dict(about) for name, about in priors.items()},
        "parameters": parameters,
        "backbone": None if backbone is None else dict(backbone),
        "tensors": {
            name: {**_describe(tensor), "sha256": tensor_hash(tensor), "file": path.name}
            for path in _weight_files(folder)
            for name, tensor in _tensors(path)
        },
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": file_hash(path)}
            for name, path in _files(folder).items()
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder, unchecked against its files.

    Raises:
        ExportError: It is missing, broken, or of a version that this code does not know.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ExportError(
            f"{folder} is not an export of spatialprior: it has no {MANIFEST}; give a run's export folder"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} is not JSON ({error}); export the run again") from None
    lacking = [key for key in _REQUIRED if not isinstance(manifest, dict) or key not in manifest]
    if lacking:
        raise ExportError(f"{path} lacks {', '.join(lacking)}; export the run again")
    version = str(manifest["schema_version"])
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise ExportError(f"{path} has schema {version}, this code reads {SCHEMA_VERSION}")
    return manifest


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Check every file and tensor of an exported folder against its manifest, and return the manifest.

    Raises:
        ExportError: Naming the first file or tensor that is missing, changed or extra.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    found, listed = _files(folder), manifest["files"]
    _compare("file", folder, found, listed)
    changed = [name for name in listed if file_hash(found[name]) != listed[name]["sha256"]]
    # A changed weight file is reported by the tensor that changed, which says more.
    for path in _weight_files(folder):
        known = {n: about for n, about in manifest["tensors"].items() if about["file"] == path.name}
        _check_tensors(path, known, contents=path.name in changed)
    lost = {about["file"] for about in manifest["tensors"].values()} - listed.keys()
    if changed or lost:
        raise _error(folder, "file", min(changed or lost), "changed" if changed else "missing")
    return manifest


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values in row-major order, as stored."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _check_tensors(path: Path, known: Mapping[str, Any], *, contents: bool) -> None:
    try:
        found = dict(_tensors(path)) if contents else dict.fromkeys(_names(path))
    except Exception as error:  # safetensors raises its own error on a broken file
        raise ExportError(f"{path} cannot be read ({error}); export the run again") from None
    _compare("tensor", path, found, known)
    for name, tensor in found.items():
        if tensor is not None and (
            _describe(tensor) != {key: known[name][key] for key in ("shape", "dtype")}
            or tensor_hash(tensor) != known[name]["sha256"]
        ):
            raise _error(path, "tensor", name, "changed")


def _compare(what: str, where: Path, found: Mapping[str, Any], listed: Mapping[str, Any]) -> None:
    for name in sorted(listed.keys() - found.keys()):
        raise _error(where, what, name, "missing")
    for name in sorted(found.keys() - listed.keys()):
        raise _error(where, what, name, "not in the manifest")


def _error(where: Path, what: str, name: str, how: str) -> ExportError:
    return ExportError(
        f"{where}: {what} {name} is {how} (see {MANIFEST}); export the run again (mode=export)"
    )


def _files(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` but the manifest, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): p for p in paths if p != folder / MANIFEST}


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _tensors(path: Path) -> list[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return [(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118 (no mapping)


def _describe(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
