"""Recipes and command line -> :class:`RunConfig`, or one line that says what does not exist."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spatialprior.core.merge import merged
from spatialprior.registry import (
    BACKBONES,
    BENCHMARKS,
    DATASETS,
    ENCODERS,
    INJECTORS,
    Registry,
    RegistryError,
    suggest,
)
from spatialprior.run.arguments import Arguments, parse
from spatialprior.run.bind import MISSING, bind
from spatialprior.run.catalog import options, plugin_folders, recipe_folder
from spatialprior.run.errors import ConfigError, one_line
from spatialprior.run.schema import COMPONENTS, SECTIONS, Component, RunConfig, RunSettings

REGISTRIES: dict[str, Registry[Any]] = {
    "backbone": BACKBONES,
    "priors": INJECTORS,
    "data": DATASETS,
    "instruction": DATASETS,
    "eval": BENCHMARKS,
    "encoder": ENCODERS,
}
"""Top-level key -> where its ``kind`` is looked up."""

RESUMABLE = (
    "mode",
    "resume",
    "output_root",
    "scale",
    "probe",
    "eval",
    "wandb",
    "plan",
    "inference_arms",
    "geometry",
)
"""What a resumed run may change: hardware and how it is looked at, never how it is trained."""

RECIPE_FILE = "recipe.yaml"

UNNAMED = "(not named)"
"""Stands in a plan for a value that only a run needs, such as the folder of the data."""

Tree = dict[str, Any]


def compose_run(argv: Sequence[str]) -> RunConfig:
    """The run that a command line describes.

    Raises:
        ConfigError: One line for anything that does not exist, has the wrong type, or is missing.
        ImportError: A selected plug-in cannot be imported (its own error).
    """
    arguments = parse(list(argv))
    resume = arguments.values.get("resume")
    tree = _composed(arguments) if resume is None else _resumed(arguments, str(resume))
    recorded = tuple(tree.pop("overrides", None) or ())
    return build(tree, overrides=tuple(dict.fromkeys(recorded + arguments.texts)))


def load_run(path: Path) -> RunConfig:
    """The run recorded in a ``recipe.yaml``."""
    return build(_read_recipe(path))


def save_run(config: RunConfig, path: Path) -> None:
    """Write the resolved config, atomically."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def build(tree: Mapping[str, Any], overrides: tuple[str, ...] = ()) -> RunConfig:
    """Check a composed tree and turn it into a :class:`RunConfig`.

    Args:
        tree: Plain values; components carry ``kind``; ``sized`` holds settings by kind.
        overrides: For the record.
    """
    tree = _without_gaps(tree) if tree.get("mode") == "plan" else tree
    tree = {**tree, "overrides": list(overrides or tree.get("overrides", ()))}
    sized = tree.pop("sized", None) or {}
    if "prior" in tree:
        raise ConfigError(
            "unknown setting prior.*; a prior's settings are written priors.NAME.setting=VALUE, and a file "
            "in prior/ begins with '# @package priors.NAME'"
        )
    known = {*SECTIONS, *COMPONENTS, "overrides"}
    for key in tree:
        if key not in known:
            raise ConfigError(f"unknown setting {key}; {suggest(str(key), known - {'overrides'})}")
    tree["phases"] = _sized_phases(tree, sized)
    # Cheap checks first: a misspelt section or kind is told before any class is imported.
    settings = bind(RunSettings, {key: tree[key] for key in tree if key in SECTIONS}, "")
    nodes = {key: tree.get(key) for key in COMPONENTS}
    priors = nodes.pop("priors") or {}
    if not isinstance(priors, Mapping):
        raise ConfigError(f"priors={priors}: select priors with prior=[NAME]")
    for required in ("backbone", "data"):
        if nodes[required] is None:
            raise ConfigError(
                f"{required}=null: a run needs one; {suggest('', REGISTRIES[required].names())}"
            )
    for name, node in priors.items():
        _kind("priors", node, f"priors.{name}")
    for key, node in nodes.items():
        if node is not None:
            _kind(key, node, key)
    components = {
        key: None if node is None else resolve_component(key, node, path=key, sized=sized)
        for key, node in nodes.items()
    }
    sections = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    return RunConfig(
        **sections,
        **components,  # type: ignore[arg-type]
        priors={
            name: resolve_component("priors", node, path=f"priors.{name}", sized=sized)
            for name, node in priors.items()
        },
        overrides=tuple(tree["overrides"]),
    )


def resolve_component(
    group: str,
    node: Mapping[str, Any],
    *,
    path: str | None = None,
    sized: Mapping[str, Any] | None = None,
) -> Component:
    """Look a node's ``kind`` up and check its settings against that class's ``Config``.

    Args:
        group: Top-level key that the node belongs to; it says which registry.
        node: ``kind`` and settings.
        path: Where the node sits, for messages; ``group`` by default.
        sized: Settings by kind that the node's own settings go over.
    """
    path = path or group
    kind = _kind(group, node, path)
    try:
        cls = REGISTRIES[group].get(kind)
    except RegistryError as error:
        raise ConfigError(f"{path}.kind: {error}") from error
    own = {key: value for key, value in node.items() if key != "kind"}
    values = merged((sized or {}).get(kind) or {}, own)
    for name, entry in getattr(cls, "nested", {}).items():
        if isinstance(values.get(name), Mapping):
            values[name] = {
                key: _nested(group, entry, item, f"{path}.{name}.{key}", sized)
                for key, item in values[name].items()
            }
    for name, entry in getattr(cls, "chosen", {}).items():
        if isinstance(values.get(name), Mapping):
            inner = f"{path}.{name}"
            values[name] = _nested(entry.group, entry, values[name], inner, sized)
    return Component(kind, cls, bind(cls.Config, values, path, f"{kind} setting"))


def _sized_phases(tree: Mapping[str, Any], sized: Mapping[str, Any]) -> Any:
    """``phases`` with the size's settings of any source of data that only a phase has."""
    phases = tree.get("phases") or {}
    if not isinstance(phases, Mapping):
        return phases
    filled = {}
    for name, changes in phases.items():
        filled[name] = dict(changes) if isinstance(changes, Mapping) else changes
        for key in ("data", "instruction"):
            node = changes.get(key) if isinstance(changes, Mapping) else None
            if isinstance(node, Mapping) and node.get("kind") in sized:
                recipe = tree.get(key)
                if not isinstance(recipe, Mapping) or recipe.get("kind") != node["kind"]:
                    filled[name][key] = merged(sized[node["kind"]], node)
    return filled


def _nested(
    group: str, entry: type[Any], node: Any, path: str, sized: Mapping[str, Any] | None
) -> Any:
    """A component among a component's settings, such as a mixture's source: ``entry(kind, settings, ...)``."""
    names = REGISTRIES[group].names()
    if not isinstance(node, Mapping) or "kind" not in node:
        raise ConfigError(f"{path} has no kind; add {path}.kind=NAME: {suggest('', names)}")
    beside = {item.name for item in dataclasses.fields(entry)} - {"kind", "settings"}
    inner = {key: value for key, value in node.items() if key not in beside}
    component = resolve_component(group, inner, path=path, sized=sized)
    rest = {key: value for key, value in node.items() if key in beside}
    return bind(entry, {**rest, "kind": component.kind, "settings": component.settings}, path)


def _without_gaps(node: Any) -> Any:
    """Planning opens no file, so that what a run would need the user to name (``???``) may stay open."""
    if isinstance(node, Mapping):
        return {key: _without_gaps(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_gaps(value) for value in node]
    return UNNAMED if node == MISSING else node


def _kind(group: str, node: Any, path: str) -> str:
    """The ``kind`` of a node, known to exist."""
    if not isinstance(node, Mapping) or "kind" not in node:
        if group != "priors":
            raise ConfigError(f"{path} has no kind; choose one with {group}=NAME")
        name, presets = path.removeprefix("priors."), options("prior")
        how = f"add prior=[{name}]" if name in presets else f"select one; {suggest(name, presets)}"
        raise ConfigError(
            f"{path} is set, but no prior of that name is selected: drop it, or {how}"
        )
    kind, registry = str(node["kind"]), REGISTRIES[group]
    try:
        names = registry.names()
    except RegistryError as error:
        raise ConfigError(str(error)) from error
    if kind not in names:
        raise ConfigError(f"{path}.kind: unknown {registry.noun} {kind!r}; {suggest(kind, names)}")
    return kind


def _composed(arguments: Arguments) -> Tree:
    """Hydra's composition of groups, then the values of the command line over it."""
    overrides = [
        _hydra_choice(group, value)
        for group, value in arguments.choices.items()
        if value is not None
    ]
    if own := _recipe_at_size(arguments):
        overrides.append(f"recipe_size={own}")
    if folders := [f"file://{folder}" for folder, _ in plugin_folders()]:
        overrides.append(f"hydra.searchpath=[{','.join(_quoted(folder) for folder in folders)}]")
    try:
        GlobalHydra.instance().clear()
        with (
            warnings.catch_warnings(),
            initialize_config_dir(str(recipe_folder()), version_base="1.3"),
        ):
            warnings.simplefilter("ignore", UserWarning)
            composed = compose("config", overrides=overrides, return_hydra_config=True)
            chosen = dict(composed.hydra.runtime.choices)
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            tree = cast(Tree, OmegaConf.to_container(composed, resolve=True))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"cannot compose the recipe: {one_line(error)}") from error
    _check_priors_apart(arguments, tree)
    for group, value in arguments.choices.items():
        if value is None:
            tree[group] = None
    for key, value in arguments.values.items():
        _put(tree, key, value)
    tree["recipe"], tree["size"], tree["hardware"] = (
        chosen[group] for group in ("recipe", "size", "scale")
    )
    return tree


def _recipe_at_size(arguments: Arguments) -> str | None:
    """Name of the settings that the chosen recipe has of its own at the chosen size, if there are any."""
    primary = yaml.safe_load((recipe_folder() / "config.yaml").read_text(encoding="utf-8"))
    defaults = {
        k: v for line in primary["defaults"] if isinstance(line, dict) for k, v in line.items()
    }
    recipe, size = (arguments.choices.get(group, defaults[group]) for group in ("recipe", "size"))
    name = f"{recipe}_{size}"
    return name if name in options("recipe_size") else None


def _hydra_choice(group: str, value: Any) -> str:
    return f"{group}=[{','.join(value)}]" if isinstance(value, list) else f"{group}={value}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _check_priors_apart(arguments: Arguments, tree: Tree) -> None:
    """Two presets of one prior (``gasp`` and ``gasp_corr``) would merge silently."""
    listed = arguments.choices.get("prior") or []
    if len(tree.get("priors") or {}) < len(listed):
        raise ConfigError(
            f"prior=[{','.join(listed)}]: two of these are presets of the same prior; choose one"
        )


def _put(tree: Tree, key: str, value: Any) -> None:
    """Set a dotted key. Whether it exists is the schema's business, later."""
    *parents, leaf = key.split(".")
    node = tree
    for name in parents:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    node[leaf] = value


def _read_recipe(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path.parent} is no run folder: it has no {path.name}; give the folder that a run printed"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"cannot read {path}: it holds no settings")
    return tree


def _resumed(arguments: Arguments, folder: str) -> Tree:
    """A recorded run, with what a resumed run may change."""
    tree = _read_recipe(Path(folder) / RECIPE_FILE)
    for key in (*arguments.choices, *arguments.values):
        top = key.split(".")[0]
        if top not in RESUMABLE:
            raise ConfigError(
                f"{key} cannot change in a resumed run (only {', '.join(RESUMABLE)} can): "
                "drop it, or start a new run without resume"
            )
    if scale := arguments.choices.get("scale"):
        fresh = _composed(Arguments(choices={"scale": scale}))
        tree["scale"], tree["hardware"] = fresh["scale"], scale
    if "eval" in arguments.choices:
        chosen = arguments.choices["eval"]
        tree["eval"] = _composed(Arguments(choices={"eval": chosen}))["eval"]
    for key, value in arguments.values.items():
        _put(tree, key, value)
    return tree
