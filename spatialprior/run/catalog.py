"""Which recipes exist on disk: ours and those of installed plug-ins. Reads file names; executes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import spatialprior
from spatialprior.registry import RECIPES_GROUP, plugin_entry_points
from spatialprior.run.errors import ConfigError

GROUPS = {
    "recipe": "a whole run",
    "prior": "spatial priors, a list: prior=[gasp]; prior=[] is plain SFT",
    "encoder": "the frozen model whose features vega3d fuses",
    "ablation": "further arms to train or to score",
    "backbone": "the model to train",
    "lora": "low-rank adapters on it, in place of those of the size",
    "data": "clips to train on",
    "instruction": "clips with questions, interleaved where data has none",
    "eval": "what scores the exported model",
    "size": "how big the world is",
    "trainer": "the optimisation",
    "scale": "the hardware, never the optimisation",
}
"""Config group -> what it picks, in the order in which help lists them."""

OPTIONAL_GROUPS = ("instruction", "eval")
"""Groups that ``null`` switches off."""


@dataclass(frozen=True)
class Option:
    """One choice of a group.

    Attributes:
        name: What to type after ``group=``.
        path: Its file.
        origin: The distribution that provides it.
    """

    name: str
    path: Path
    origin: str

    def describe(self) -> str:
        """Its first comment that is not a directive to Hydra."""
        for line in self.path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            text = line.lstrip("# ").strip()
            if text and not text.startswith("@package"):
                return text
        return ""


def recipe_folder() -> Path:
    """Our own recipes: beside the package in a checkout, inside it in a wheel."""
    package = Path(spatialprior.__file__).parent
    for folder in (package / "_recipes", package.parent / "recipes"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"no recipes found beside {package}; reinstall spatialprior")


def plugin_folders() -> list[tuple[Path, str]]:
    """``(folder, distribution)`` of every plug-in's recipes.

    An entry point's value is a dotted folder such as ``"my_package.recipes"``. Only its top-level package is
    looked up, which runs no code of it, so a plug-in with a broken ``__init__`` cannot stop other runs.
    """
    folders = []
    for entry, distribution in plugin_entry_points(RECIPES_GROUP):
        top, *rest = entry.value.split(".")
        spec = find_spec(top)
        for location in (spec.submodule_search_locations or []) if spec else []:
            folder = Path(location).joinpath(*rest)
            if folder.is_dir():
                folders.append((folder.resolve(), distribution))
                break
    return folders


def options(group: str) -> dict[str, Option]:
    """Choices of a group by name.

    Raises:
        ConfigError: Two distributions offer the same name.
    """
    found: dict[str, Option] = {}
    for folder, origin in [(recipe_folder(), "spatialprior"), *plugin_folders()]:
        base = folder / group
        for path in sorted(base.rglob("*.yaml")):
            name = path.relative_to(base).with_suffix("").as_posix()
            if name in found:
                raise ConfigError(
                    f"{group}={name} is provided twice: by {found[name].origin} and by {origin}; "
                    "uninstall one of them"
                )
            found[name] = Option(name, path, origin)
    return found
