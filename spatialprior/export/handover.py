"""From an export to a training that starts from it: its weights, and the tensors of the priors it keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file

from spatialprior.export.kept import kept_of, tensor_file
from spatialprior.export.manifest import ExportError, read_manifest
from spatialprior.model import SpatialModel
from spatialprior.registry import INJECTORS

S = TypeVar("S")


def settings_at(settings: S, folder: Path, **changes: Any) -> S:
    """A backbone's settings, its weights those of an export.

    Args:
        settings: Instance of a backbone's ``Config``.
        folder: The export.
        changes: Further settings to change, where the backbone has them.
    """
    own = {field.name for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    changes = {"path": str(folder), "revision": None, **changes}
    changed: S = dataclasses.replace(settings, **{k: v for k, v in changes.items() if k in own})  # type: ignore[type-var]
    return changed


def begin(model: SpatialModel, start: Path | None, *, resumed: bool) -> None:
    """Give the priors the weights that their training begins with, where these are not drawn.

    Args:
        model: Its priors attached, initialised.
        start: The export that the training starts from, verified, or ``None``.
        resumed: A checkpoint is there, which holds all that trains. What does not train is read again, as the
            backbone's weights are.
    """
    taken = take_over(model, start) if start is not None else set()
    for name, prior in model.injectors.items():
        complete = resumed and all(p.requires_grad for p in prior.parameters())
        if name not in taken and not complete:
            prior.import_weights()


def take_over(model: SpatialModel, folder: Path) -> set[str]:
    """Give the priors of ``model`` the tensors that an export keeps of priors of the same names, bit by bit.

    Settings may differ from those that were exported. A prior that the export does not keep stays as it is.

    Args:
        model: Its priors attached, initialised.
        folder: The export, verified.

    Returns:
        The priors that got theirs.

    Raises:
        ExportError: A prior is of another kind, or its tensors have other names or shapes.
    """
    taken = set()
    for name, entry in kept_of(read_manifest(folder)["priors"]).items():
        prior = model.injectors.get(name)
        if prior is None:
            continue
        if (kind := INJECTORS.name_of(type(prior))) != entry["kind"]:
            raise ExportError(
                f"{folder}: its prior {name!r} is a {entry['kind']}, and here it is a {kind}; "
                "give the prior another name to start it afresh"
            )
        found, own = load_file(tensor_file(folder, name)), prior.state_dict()
        for key in sorted(found.keys() | own.keys()):
            there, here = (list(t[key].shape) if key in t else None for t in (found, own))
            if there != here:
                raise ExportError(
                    f"{folder}: the tensors of prior {name!r} do not fit its settings here: {key} is "
                    f"{there or 'absent'} there and {here or 'absent'} here; change none that shapes it"
                )
        prior.load_state_dict(found, strict=True)
        taken.add(name)
    return taken
