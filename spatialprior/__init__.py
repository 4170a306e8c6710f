"""Spatial priors for vision-language models: train with geometry, export an ordinary checkpoint.

This module is the extension surface: what a plug-in subclasses or registers with. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialprior.core.backbone import Backbone, BackboneOutput, Encoder
    from spatialprior.core.batch import ClipBatch
    from spatialprior.core.clip import MultiViewClip, Question
    from spatialprior.core.injector import ExportMode, Needs, PriorInjector
    from spatialprior.core.sites import VISUAL_TOKENS, Site, Taps, residual_in, residual_out
    from spatialprior.core.terms import LossTerm
    from spatialprior.core.token_map import TokenMap
    from spatialprior.registry import BACKBONES, BENCHMARKS, DATASETS, ENCODERS, INJECTORS

__version__ = "0.1.0"

_HOME = {
    "spatialprior.core.backbone": ("Backbone", "BackboneOutput", "Encoder"),
    "spatialprior.core.batch": ("ClipBatch",),
    "spatialprior.core.clip": ("MultiViewClip", "Question"),
    "spatialprior.core.injector": ("ExportMode", "Needs", "PriorInjector"),
    "spatialprior.core.sites": ("VISUAL_TOKENS", "Site", "Taps", "residual_in", "residual_out"),
    "spatialprior.core.terms": ("LossTerm",),
    "spatialprior.core.token_map": ("TokenMap",),
    "spatialprior.registry": ("BACKBONES", "BENCHMARKS", "DATASETS", "ENCODERS", "INJECTORS"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BACKBONES",
    "BENCHMARKS",
    "DATASETS",
    "ENCODERS",
    "INJECTORS",
    "VISUAL_TOKENS",
    "Backbone",
    "BackboneOutput",
    "ClipBatch",
    "Encoder",
    "ExportMode",
    "LossTerm",
    "MultiViewClip",
    "Needs",
    "PriorInjector",
    "Question",
    "Site",
    "Taps",
    "TokenMap",
    "__version__",
    "residual_in",
    "residual_out",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import spatialprior`` costs milliseconds, not torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
