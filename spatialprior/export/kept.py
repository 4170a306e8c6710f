"""Priors that stay in an exported model: their tensors beside the stock checkpoint, one call to load both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from spatialprior.core.backbone import Backbone
from spatialprior.core.injector import ExportMode, PriorInjector
from spatialprior.core.merge import merged
from spatialprior.export.manifest import ExportError, verify_manifest
from spatialprior.model import SpatialModel
from spatialprior.registry import BACKBONES, INJECTORS

FOLDER = "priors"
_OF_THE_RUN = ("path", "revision", "lora")
"""Settings of a backbone that say where a run started, not how the export is read."""


def describe_priors(priors: Mapping[str, PriorInjector]) -> dict[str, dict[str, Any]]:
    """Each prior as the manifest names it: class and mode; of one that is kept, all that loading it takes.

    Raises:
        ExportError: A prior's mode is not available, or it is to be kept and no registry knows it.
    """
    about: dict[str, dict[str, Any]] = {}
    for name, prior in priors.items():
        mode = prior.export_mode
        if mode is ExportMode.MERGE:
            raise ExportError(f"prior {name!r} needs MERGE export, which is not available yet")
        about[name] = {"kind": type(prior).__qualname__, "export": mode.value}
        if mode is not ExportMode.KEEP:
            continue
        kind = INJECTORS.name_of(type(prior))
        if kind is None:
            raise ExportError(
                f"prior {name!r} stays in the export, so it must be found again: register "
                f"{type(prior).__qualname__} (entry point spatialprior.injectors, or INJECTORS.add)"
            )
        about[name] |= {
            "kind": kind,
            "settings": {
                key: value
                for key, value in plain_settings(prior.config).items()
                if key not in prior.local_settings
            },
            "provenance": prior.provenance(),
            "parameters": sum(p.numel() for p in prior.parameters()),
        }
    return about


def describe_backbone(backbone: Backbone) -> dict[str, Any] | None:
    """The backbone's kind and settings, where a registry knows it."""
    kind = BACKBONES.name_of(type(backbone))
    settings = getattr(backbone, "settings", None)
    if kind is None or settings is None:
        return None
    values = {k: v for k, v in plain_settings(settings).items() if k not in _OF_THE_RUN}
    return {"kind": kind, "settings": values}


def plain_settings(settings: Any) -> dict[str, Any]:
    """A component's settings as plain values, in the shape in which recipes write them."""
    own = getattr(settings, "to_dict", None)
    found: dict[str, Any] = own() if own else dataclasses.asdict(settings)
    return found


def kept_of(about: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The priors of a manifest that ship with the checkpoint."""
    return {n: entry for n, entry in about.items() if entry["export"] == ExportMode.KEEP.value}


def save_kept(priors: Mapping[str, PriorInjector], about: Mapping[str, Any], folder: Path) -> None:
    """Write the tensors of every kept prior below ``folder``."""
    for name in kept_of(about):
        path = tensor_file(folder, name)
        path.parent.mkdir(exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous() for k, v in priors[name].state_dict().items()}
        save_file(tensors, path, metadata={"format": "pt"})


def tensor_file(folder: Path, name: str) -> Path:
    """Where the tensors of a kept prior lie in an export."""
    return folder / FOLDER / f"{name}.safetensors"


def attach_kept(
    backbone: Backbone,
    folder: Path,
    about: Mapping[str, Mapping[str, Any]],
    changes: Mapping[str, Any] | None = None,
) -> SpatialModel:
    """Put the kept priors of an export on its backbone.

    Args:
        backbone: Loaded from ``folder``.
        folder: The export.
        about: ``priors`` of its manifest.
        changes: Prior -> settings to use in place of the recorded ones (an instance of its ``Config``).

    Raises:
        ExportError: A prior is unknown here, or depends on other weights than it was trained with.
    """
    priors: dict[str, PriorInjector] = {}
    for name, entry in kept_of(about).items():
        try:
            cls: Any = INJECTORS.get(entry["kind"])
        except ValueError as error:
            raise ExportError(f"{folder} needs its prior {name!r}: {error}") from None
        settings = (changes or {}).get(name) or _recorded(cls, entry["settings"], folder, name)
        priors[name] = cls(settings)
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        model = SpatialModel(backbone, priors)
    for name, prior in priors.items():
        entry = about[name]
        if (found := prior.provenance()) != entry["provenance"]:
            raise ExportError(
                f"{folder}: prior {name!r} was trained with {entry['provenance']}, and here there is {found}; "
                "get the same weights, or its answers are not those of the export"
            )
        file = tensor_file(folder, name)
        if not file.is_file():
            raise ExportError(
                f"{folder} lacks {FOLDER}/{file.name}; export the run again (mode=export)"
            )
        prior.load_state_dict(load_file(file), strict=True)
    device = next(backbone.parameters()).device
    return model.to(device).eval()


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> SpatialModel:
    """An exported model with the priors that it keeps: ``load_model(folder).backbone.generate(...)`` answers.

    Args:
        folder: The export.
        device: Where to put it.
        changes: Prior -> settings of it to use in place of the recorded ones, such as where the frozen weights
            lie on this machine: ``{"vega3d": {"encoder": {"path": FOLDER}}}``.

    Raises:
        ExportError: The folder is not what its manifest says, or does not name its backbone; or a frozen model
            is not the one it was trained with.
    """
    folder = Path(folder)
    manifest = verify_manifest(folder)
    if not manifest.get("backbone"):
        raise ExportError(f"{folder} does not name its backbone; load it with its own class")
    cls: Any = BACKBONES.get(manifest["backbone"]["kind"])
    backbone = cls.load(cls.Config(path=str(folder), **manifest["backbone"]["settings"]))
    settings = {}
    for name, new in (changes or {}).items():
        entry = kept_of(manifest["priors"]).get(name)
        if entry is None:
            raise ExportError(
                f"{folder} keeps no prior {name!r}; it keeps {', '.join(kept_of(manifest['priors']))}"
            )
        wanted = merged(entry["settings"], new)
        settings[name] = _recorded(INJECTORS.get(entry["kind"]), wanted, folder, name)
    model = attach_kept(backbone.to(device), folder, manifest["priors"], settings)
    model.serve()
    return model


def _recorded(cls: Any, settings: Mapping[str, Any], folder: Path, name: str) -> Any:
    try:
        return cls.Config(**settings)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"{folder}: settings of prior {name!r} do not fit this version: {error}"
        ) from None
