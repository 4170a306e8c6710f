"""Names to classes: laziness, contracts, third parties, and messages that help."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

import spatialprior.registry as registry_module
from spatialprior.registry import (
    BACKBONES,
    BENCHMARKS,
    DATASETS,
    INJECTORS,
    Registry,
    RegistryError,
    near_miss,
)


class Base:
    pass


class Good(Base):
    @dataclass
    class Config:
        size: int = 1


class Configless(Base):
    pass


class Stranger:
    @dataclass
    class Config:
        size: int = 1


def make(builtin: dict[str, str] | None = None, **kwargs: object) -> Registry[Base]:
    return Registry("thing", "spatialprior.test_things", builtin or {}, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretend that distributions are installed: ``installed(("dist", "name", "module:attr"), ...)``."""

    def install(*lines: tuple[str, str, str]) -> None:
        def find(group: str) -> list[tuple[EntryPoint, str]]:
            return [(EntryPoint(name, value, group), dist) for dist, name, value in lines]

        monkeypatch.setattr(registry_module, "plugin_entry_points", find)

    return install


def test_unknown_name_suggests_a_near_one_and_lists_all():
    registry = make({"alpha_one": "m:A", "beta": "m:B"})
    with pytest.raises(RegistryError) as caught:
        registry.get("Alpha-One")
    assert "unknown thing 'Alpha-One'; did you mean alpha_one? Choose from: alpha_one, beta" in str(
        caught.value
    )
    with pytest.raises(RegistryError, match=r"'zzz'; choose from: alpha_one, beta"):
        registry.get("zzz")


def test_only_the_selected_class_is_imported(installed):
    installed(("broken-dist", "broken", "no_such_module_at_all:X"))
    registry = make()
    registry.add("good", Good)
    assert registry.names() == ["broken", "good"]
    assert registry.get("good") is Good
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all") as caught:
        registry.get("broken")
    assert "broken-dist" in caught.value.__notes__[0]


def test_duplicates_name_both_distributions(installed):
    installed(("dist-one", "same", "one:X"), ("dist-two", "same", "two:X"))
    with pytest.raises(RegistryError, match=r"provided twice: by dist-one .* and by dist-two"):
        make().names()


def test_a_plugin_cannot_take_a_builtin_name(installed):
    installed(("impostor", "gasp", "impostor:X"))
    with pytest.raises(RegistryError, match=r"by spatialprior .* by impostor"):
        make({"gasp": "ours:Gasp"}).get("gasp")


def test_one_distribution_found_twice_counts_once(monkeypatch):
    class Dist:
        name = "editable-and-installed"

    class Entry:
        name, value, dist = "x", "m:X", Dist

    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Entry, Entry])
    assert make().names() == ["x"]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (Configless, "no nested dataclass Config"),
        (Stranger, "does not derive from"),
        (Good, "lacks split"),
    ],
)
def test_contract_is_checked(target, complaint):
    registry = make(base=f"{__name__}:Base", requires=("split",))
    sys.modules.setdefault(__name__, sys.modules[Good.__module__])
    with pytest.raises(RegistryError, match=complaint):
        registry.add("x", target)
    assert "x" not in registry.names()


def test_missing_attribute_is_told_apart_from_a_missing_module():
    with pytest.raises(RegistryError, match="points at json:NoSuchClass, which does not exist"):
        make({"x": "json:NoSuchClass"}).get("x")


def test_a_frozen_registry_takes_no_more_names():
    registry = make()
    registry.freeze()
    with pytest.raises(RegistryError, match="run has begun"):
        registry.add("x", Good)


def test_near_miss_wants_nearness():
    assert near_miss("gaps", ["gasp", "vega3d"]) == "gasp"
    assert near_miss("entirely", ["gasp", "vega3d"]) is None


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        (INJECTORS, "gasp"),
        (BACKBONES, "qwen2_5_vl"),
        (DATASETS, "rooms"),
        (DATASETS, "posed_rgbd"),
        (BENCHMARKS, "rooms_questions"),
    ],
)
def test_built_in_names_lead_to_classes_that_fulfil_the_contract(registry, name):
    assert registry.get(name).__name__
    assert registry.origin(name) == "spatialprior"


def test_importing_the_package_loads_neither_torch_nor_any_component():
    code = (
        "import sys, spatialprior, spatialprior.registry as r; r.INJECTORS.names();"
        "print([m for m in sys.modules if m == 'torch' or m.startswith('spatialprior.')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['spatialprior.registry']"


def test_the_extension_surface_resolves():
    import spatialprior

    for name in spatialprior.__all__:
        assert getattr(spatialprior, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = spatialprior.nonsense
