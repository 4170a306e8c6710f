"""Names to classes: built-in ones and those that other distributions add through entry points.

Everything is lazy. A registry holds ``"module:attribute"`` strings; a class is imported when its name is
selected, and not before, so that one broken plug-in cannot break a run that does not use it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from spatialprior.core.backbone import Backbone
    from spatialprior.core.injector import PriorInjector
    from spatialprior.features.encoder import FeatureEncoder

T = TypeVar("T")

HERE = "spatialprior"
"""The distribution that the built-in names come from."""


class RegistryError(ValueError):
    """A name is unknown, taken twice, or leads to something unusable. The message is one line for the user."""


def near_miss(name: str, options: Iterable[str]) -> str | None:
    """The option that ``name`` most likely means; case and ``-`` against ``_`` do not count."""
    folded = {option.casefold().replace("-", "_"): option for option in sorted(options)}
    near = difflib.get_close_matches(name.casefold().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None


def suggest(name: str, options: Iterable[str], prefix: str = "") -> str:
    """``"did you mean a? Choose from: a, b"``, without the question where nothing is near."""
    known = sorted(options)
    near = near_miss(name, known)
    listed = ", ".join(known) or "nothing, none is installed"
    return (
        f"did you mean {prefix}{near}? Choose from: {listed}" if near else f"choose from: {listed}"
    )


def load_attribute(target: str) -> Any:
    """Import ``"module:attribute"``. An ``ImportError`` raised by the module passes through unchanged."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def plugin_entry_points(group: str) -> list[tuple[EntryPoint, str]]:
    """``(entry point, distribution name)`` of everything installed under ``group``; imports nothing.

    The same line found twice (an editable and a normal install of one distribution) counts once.
    """
    found = {}
    for entry in entry_points(group=group):
        distribution = entry.dist.name if entry.dist is not None else "an unnamed distribution"
        found[(entry.name, entry.value, distribution)] = (entry, distribution)
    return [found[key] for key in sorted(found)]


@dataclass(frozen=True)
class _Entry:
    target: str
    origin: str


class Registry(Generic[T]):
    """Classes of one sort, by the name that a recipe writes after ``kind:``.

    Args:
        noun: What an entry is called in messages, e.g. ``"prior"``.
        group: Entry-point group that other distributions use, e.g. ``"spatialprior.injectors"``.
        builtin: Our own names, each with its ``"module:Class"``.
        base: ``"module:Class"`` that every entry must derive from, or ``None`` where a protocol is enough.
        requires: Attributes every class must have. ``Config``, a nested dataclass, is always one of them.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        builtin: Mapping[str, str],
        *,
        base: str | None = None,
        requires: tuple[str, ...] = (),
    ) -> None:
        self.noun = noun
        self.group = group
        self._base = base
        self._requires = requires
        self._entries = {name: _Entry(target, HERE) for name, target in builtin.items()}
        self._loaded: dict[str, type[T]] = {}
        self._scanned = False
        self._frozen = False

    def add(self, name: str, target: str | type[T], *, origin: str = "this session") -> None:
        """Register a class, or the ``"module:Class"`` where it is found.

        Raises:
            RegistryError: The name is taken, or the registry is frozen because a run has begun.
        """
        if self._frozen:
            raise RegistryError(
                f"cannot add {self.noun} {name!r}: the run has begun and its names are fixed"
            )
        if (taken := self._entries.get(name)) is not None:
            raise RegistryError(
                f"{self.noun} {name!r} is provided twice: by {taken.origin} ({taken.target}) and by {origin} "
                f"({target}); uninstall one of them"
            )
        if isinstance(target, str):
            self._entries[name] = _Entry(target, origin)
        else:
            self._check(name, target, origin)
            self._entries[name] = _Entry(f"{target.__module__}:{target.__qualname__}", origin)
            self._loaded[name] = target

    def names(self) -> list[str]:
        """All known names, sorted. Reads entry points as text; imports nothing."""
        self._scan()
        return sorted(self._entries)

    def origin(self, name: str) -> str:
        """The distribution that provides ``name``."""
        return self._entry(name).origin

    def get(self, name: str) -> type[T]:
        """The class called ``name``, imported now if it was not yet.

        Raises:
            RegistryError: No such name, or the class does not fulfil the contract.
            ImportError: The module that provides it cannot be imported; its own error, with a note that says
                which distribution it belongs to.
        """
        entry = self._entry(name)
        if name not in self._loaded:
            try:
                found = load_attribute(entry.target)
            except ImportError as error:
                error.add_note(
                    f"while loading {self.noun} {name!r} ({entry.target}) of {entry.origin}"
                )
                raise
            except AttributeError as error:
                raise RegistryError(
                    f"{self.noun} {name!r} of {entry.origin} points at {entry.target}, which does not exist"
                ) from error
            self._check(name, found, entry.origin)
            self._loaded[name] = cast("type[T]", found)
        return self._loaded[name]

    def configured(self, kind: str, values: Mapping[str, Any], path: str) -> Any:
        """The ``Config`` of the class called ``kind``, from plain values.

        Raises:
            ValueError: A setting does not exist; it is named below ``path``.
        """
        config: Any = getattr(self.get(kind), "Config")  # noqa: B009 (no base class promises it)
        known = {item.name for item in dataclasses.fields(config)}
        for key in values.keys() - known:
            raise ValueError(f"unknown setting {path}.{key}; {suggest(str(key), known)}")
        return config(**values)

    def name_of(self, cls: type) -> str | None:
        """The name of a class that is registered; imports nothing."""
        target = f"{cls.__module__}:{cls.__qualname__}"
        self._scan()
        return next((n for n, entry in self._entries.items() if entry.target == target), None)

    def freeze(self) -> None:
        """Fix the set of names: a run's meaning must not change while it runs."""
        self._scan()
        self._frozen = True

    def _entry(self, name: str) -> _Entry:
        self._scan()
        if name not in self._entries:
            raise RegistryError(f"unknown {self.noun} {name!r}; {suggest(name, self._entries)}")
        return self._entries[name]

    def _scan(self) -> None:
        if self._scanned:
            return
        for entry, distribution in plugin_entry_points(self.group):
            self.add(entry.name, entry.value, origin=distribution)
        self._scanned = True

    def _check(self, name: str, found: object, origin: str) -> None:
        """Refuse what lacks a nested dataclass ``Config``, the base class or a required attribute."""
        who = f"{self.noun} {name!r} of {origin}"
        if not isinstance(found, type):
            raise RegistryError(f"{who} is not a class")
        if self._base is not None and not issubclass(found, load_attribute(self._base)):
            raise RegistryError(f"{who} does not derive from {self._base.replace(':', '.')}")
        config = getattr(found, "Config", None)
        if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
            raise RegistryError(f"{who} has no nested dataclass Config")
        lacking = [attribute for attribute in self._requires if not hasattr(found, attribute)]
        if lacking:
            raise RegistryError(f"{who} lacks {', '.join(lacking)}")


INJECTORS: Registry[PriorInjector] = Registry(
    "prior",
    "spatialprior.injectors",
    {
        "gasp": "spatialprior.priors.gasp.injector:Gasp",
        "vega3d": "spatialprior.priors.vega3d.injector:Vega3d",
        "geometry_expert": "spatialprior.priors.geometry_expert.injector:GeometryExpert",
    },
    base="spatialprior.core.injector:PriorInjector",
)
BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    "spatialprior.backbones",
    {
        "llava_next_video": "spatialprior.backbones.llava_next_video:LlavaNextVideo",
        "llava_onevision": "spatialprior.backbones.llava_onevision:LlavaOnevision",
        "qwen2_5_vl": "spatialprior.backbones.qwen2_5_vl:Qwen2_5VL",
        "qwen2_vl": "spatialprior.backbones.qwen2_vl:Qwen2VL",
        "qwen3_vl": "spatialprior.backbones.qwen3_vl:Qwen3VL",
    },
    base="spatialprior.core.backbone:Backbone",
)
DATASETS: Registry[Any] = Registry(
    "dataset",
    "spatialprior.datasets",
    {
        "rooms": "spatialprior.data.rooms.dataset:Rooms",
        "posed_rgbd": "spatialprior.data.posed_rgbd.dataset:PosedRgbd",
        "llava_json": "spatialprior.data.conversations.dataset:LlavaJson",
        "mixture": "spatialprior.data.mixture:Mixture",
    },
    requires=("split",),
)
BENCHMARKS: Registry[Any] = Registry(
    "benchmark",
    "spatialprior.benchmarks",
    {
        "all_angles": "spatialprior.eval.published.all_angles:AllAngles",
        "blink": "spatialprior.eval.published.blink:Blink",
        "mmsi_bench": "spatialprior.eval.published.mmsi_bench:MmsiBench",
        "rooms_questions": "spatialprior.eval.rooms_questions:RoomsQuestions",
        "spar_bench": "spatialprior.eval.published.spar_bench:SparBench",
        "vsi_bench": "spatialprior.eval.published.vsi_bench:VsiBench",
        "cv_bench": "spatialprior.eval.published.cv_bench:CvBench",
        "mindcube": "spatialprior.eval.published.mindcube:MindCube",
        "omnispatial": "spatialprior.eval.published.omnispatial:OmniSpatial",
        "ost_bench": "spatialprior.eval.published.ost_bench:OstBench",
        "scanqa": "spatialprior.eval.published.scanqa:ScanQa",
        "sqa3d": "spatialprior.eval.published.sqa3d:Sqa3d",
        "sti_bench": "spatialprior.eval.published.sti_bench:StiBench",
        "viewspatial": "spatialprior.eval.published.viewspatial:ViewSpatial",
    },
)

ENCODERS: Registry[FeatureEncoder] = Registry(
    "feature encoder",
    "spatialprior.encoders",
    {
        "wan_t2v": "spatialprior.features.wan_t2v:WanT2V",
        "wan_vace": "spatialprior.features.wan_vace:WanVace",
        "sd21": "spatialprior.features.stable_diffusion:StableDiffusion21",
        "svd": "spatialprior.features.stable_video:StableVideoDiffusion",
        "sd_vae": "spatialprior.features.sd_vae:StableDiffusionVae",
        "dinov2": "spatialprior.features.dino:DinoV2",
        "dinov3": "spatialprior.features.dino:DinoV3",
        "dinov2_reg": "spatialprior.features.dinov2_reg:DinoV2Registers",
        "vjepa2": "spatialprior.features.vjepa2:VJepa2",
        "vggt": "spatialprior.features.vggt:Vggt",
    },
    base="spatialprior.features.encoder:FeatureEncoder",
)

RECIPES_GROUP = "spatialprior.recipes"
"""Entry-point group whose values are dotted folders of YAML (``"my_package.recipes"``), never imported."""
