"""The documentation's snippets run, its links lead somewhere, and its tables name what exists."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from spatialprior import registry
from spatialprior.data.rooms.question_types import QUESTION_TYPES
from spatialprior.diagnostics.config import ProbeConfig
from spatialprior.objectives.scene_weights import SceneLossConfig
from spatialprior.priors.gasp.injector import Gasp
from spatialprior.priors.geometry_expert.config import GeometryExpertConfig
from spatialprior.priors.geometry_expert.expert import ExpertConfig
from spatialprior.priors.geometry_expert.heads.config import HeadsConfig
from spatialprior.run.arms import arms_of
from spatialprior.run.compose import compose_run

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *PAGES]
REGISTRIES = ("INJECTORS", "BACKBONES", "DATASETS", "BENCHMARKS", "ENCODERS")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def run_page(page: Path) -> dict[str, Any]:
    """Run a page's Python snippets one after another, as a reader would."""
    module = ModuleType(f"docs_{page.stem.replace('-', '_')}")
    sys.modules[module.__name__] = module  # where dataclasses look their types up
    for number, code in enumerate(blocks(page, "python"), start=1):
        where = f"{page.name}, snippet {number}"
        exec(compile(code, where, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in REGISTRIES:  # what a page registers is gone afterwards
        kept = getattr(registry, name)
        monkeypatch.setattr(kept, "_entries", dict(kept._entries))
        monkeypatch.setattr(kept, "_loaded", dict(kept._loaded))
    run_page(page)


# The documented priors pass the conformance suite: pytest collects the classes that the page defines.
DOCUMENTED = run_page(ROOT / "docs" / "add-a-prior.md")
TestDocumentedPrior = DOCUMENTED["TestTokenDepth"]
TestDocumentedRouter = DOCUMENTED["TestViewToken"]


@pytest.mark.parametrize("text", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(text):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text.read_text()):
        if "://" not in target:
            assert (text.parent / target).exists(), f"{text.name}: {target}"


@pytest.mark.parametrize("text", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_named_in_backticks_exist(text):
    named = re.findall(
        r"`((?:spatialprior|recipes|benchmarks|tests|docs)/[\w./-]+)`", text.read_text()
    )
    for name in (name for name in named if "NAME" not in name):
        assert (ROOT / name).exists(), f"{text.name}: {name}"


def test_recipes_in_the_pages_are_yaml():
    for page in PAGES:
        for text in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(text), dict)


def test_the_readme_begins_with_the_two_commands():
    first = blocks(ROOT / "README.md", "")[0]
    assert first.splitlines() == [
        "pip install -e . && python -m spatialprior.run recipe=gasp_qwen",
        'pip install -e ".[test]" && pytest',
    ]


def table_names(page: str, heading: str) -> set[str]:
    """Names in backticks in the first column of the table under a heading."""
    text = (ROOT / "docs" / page).read_text().split(f"{heading}\n", 1)[1]
    text = re.split(r"\n##+ ", text, maxsplit=1)[0]
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


def test_settings_of_gasp_and_of_the_probe_are_all_described():
    assert table_names("gasp.md", "## Settings") == set(Gasp.Config.__dataclass_fields__)
    assert table_names("gasp.md", "## The probe") == set(ProbeConfig.__dataclass_fields__)


def test_settings_of_the_geometry_expert_are_all_described():
    for heading, config in {
        "## Settings": GeometryExpertConfig,
        "### The expert": ExpertConfig,
        "### Heads": HeadsConfig,
        "### Losses": SceneLossConfig,
    }.items():
        assert table_names("g2vlm.md", heading) == set(config.__dataclass_fields__), heading


def commands(page: str) -> list[list[str]]:
    """Arguments of every run that a page names, with a path where it says PATH; words behind spaces explain."""
    text = "\n".join(blocks(ROOT / "docs" / page, "")).replace("\\\n", "")
    named = re.findall(r"^python -m spatialprior\.run +(.*)$", text, re.MULTILINE)
    return [
        [word.replace("PATH", "/nowhere") for word in line.split() if "=" in word] for line in named
    ]


@pytest.mark.parametrize("argv", commands("g2vlm.md"), ids=" ".join)
def test_commands_compose(argv):
    arms_of(compose_run(argv), Path())


def test_question_types_are_all_described():
    assert table_names("embedded-world.md", "## Questions") == set(QUESTION_TYPES)
